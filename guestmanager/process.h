#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "guestmanager/kept_output.h"

namespace ferry::guest {

struct ProcessSpec {
  std::vector<std::string> command;
  std::map<std::string, std::string> environment;
  std::string working_directory;  // empty: "/"
  bool has_stdin = false;
  bool terminal = false;
  uint32_t rows = 0;
  uint32_t columns = 0;
  bool detached = false;
  std::string container_id;  // it is in this container; empty: in the VM itself
  std::string user;          // as asked for; in a container only
};

struct ExitStatus {
  enum class Kind { kCode, kSignal, kUnknown };
  Kind kind = Kind::kUnknown;
  uint32_t value = 0;
  bool operator==(const ExitStatus&) const = default;
};

struct StreamState {
  StreamPosition taken;       // by the consumer: client or spool
  bool ended = false;         // its end was taken too
  uint64_t spool_start = 0;   // offset of spool's first byte
  std::string spool;          // output of a detached process that is kept on the host
  uint64_t went_back_at = 0;  // its end when its guest was put back last; 0: it never was
  uint64_t in_flight = 0;     // passed through here and not taken yet; measured, not carried
};

// What a migration carries of a process. The zero value (no ports, no wait) says that it has no
// bridge; StateToCarry names it and refuses. Guest has processes behind a bridge alone, so this
// stands for kinds that are yet to come.
struct ProcessState {
  std::string container_id;  // "" is the VM-level scope
  uint32_t pid = 0;
  ProcessSpec spec;
  uint32_t stdin_port = 0;
  uint32_t stdout_port = 0;
  uint32_t stderr_port = 0;
  int64_t wait_call_id = 0;
  StreamState std_in;
  StreamState std_out;
  StreamState std_err;
  std::optional<ExitStatus> exit_status;
  uint64_t created_unix_ms = 0;
  std::string attachment_id;
  std::string request_id;  // of the call that made it; may be empty
};

// Where a client stands when it attaches.
struct AttachOptions {
  bool steal = false;
  bool watch_only = false;  // leaves stdin alone
  std::string attachment_id;
  std::optional<StreamPosition> stdout_position;  // unset: from the oldest byte that is kept
  std::optional<StreamPosition> stderr_position;
};

// The attacher's end, implemented at the RPC edge. Calls come on the executor's thread. A sink that
// is slow says so through `writable`: the relay sends output only while it is true and goes on when
// Attachment::OnWritable is called.
class AttachSink {
 public:
  virtual ~AttachSink() = default;
  virtual bool writable() const = 0;
  virtual void OnOutput(Stream stream, StreamPosition position, std::string_view data) = 0;
  virtual void OnOutputEnd(Stream stream, uint64_t offset) = 0;
  virtual void OnOutputDropped(Stream stream, uint64_t from, uint64_t to) = 0;
  virtual void OnStdinTaken(uint64_t offset, bool end_taken) = 0;
  virtual void OnStdinRewind(uint64_t offset) = 0;
  virtual void OnStdinClosed() = 0;
  // After the last byte and the ends of all output streams.
  virtual void OnExited(ExitStatus status) = 0;
  // The attachment is over for another reason than the client's own wish; no more calls follow.
  virtual void OnDetached(const absl::Status& reason) = 0;
};

// One client's hold on a process. Destroying it detaches; the process and what it wrote stay.
class Attachment {
 public:
  virtual ~Attachment() = default;

  // Where stdin stands: the process has taken everything below.
  virtual StreamPosition stdin_position() const = 0;

  // Stdin bytes at an absolute offset; bytes that were already passed on are skipped, a gap is
  // INVALID_ARGUMENT. At most the stream window beyond what was taken.
  virtual absl::Status SendStdin(uint64_t offset, std::string_view data) = 0;
  virtual absl::Status EndStdin(uint64_t offset) = 0;

  virtual void Acknowledge(Stream stream, uint64_t offset, bool end_taken) = 0;
  virtual void ExitTaken() = 0;
  virtual void OnWritable() = 0;
};

// One process in a guest. Thread: the executor's only.
class Process {
 public:
  virtual ~Process() = default;

  virtual uint32_t pid() const = 0;
  virtual const ProcessSpec& spec() const = 0;
  virtual uint64_t created_unix_ms() const = 0;
  virtual std::optional<ExitStatus> exit_status() const = 0;
  virtual bool attached() const = 0;

  // Returns when it has exited; UNAVAILABLE when the guest went away for good.
  virtual Task<absl::StatusOr<ExitStatus>> Wait() = 0;

  // False if it had already exited. Waits for an agent that is about to dial again.
  virtual Task<absl::StatusOr<bool>> Signal(uint32_t signal) = 0;
  // Over lost links too; OK as well if a newer size overtook this one.
  virtual Task<absl::Status> ResizeConsole(uint32_t rows, uint32_t columns) = 0;

  // Before an interactive Attach: returns when it is known where input of that client begins. The
  // last attacher, as recorded, knows it by itself. Another one waits, after a restart or a
  // migration, until the guest has said what it holds of the last one's. May be cancelled.
  virtual Task<void> AwaitInput(std::string attachment_id) = 0;
  // The guest's agent was there and has not said it, so the input is over: nobody waits any more.
  virtual void SettleInput() = 0;

  // ALREADY_EXISTS if another client is attached interactively and `steal` is not set.
  // OUT_OF_RANGE if a position lies before what is still kept.
  virtual absl::StatusOr<std::unique_ptr<Attachment>> Attach(AttachOptions options,
                                                             AttachSink& sink) = 0;

  // Kept output from the byte `since` on, or from the oldest if that is gone; at most `limit`
  // bytes. Nothing of a stream that it does not have. FAILED_PRECONDITION unless it is detached.
  virtual absl::StatusOr<KeptOutput> ReadKept(Stream stream, uint64_t since, size_t limit) const;
  // Called once it has exited and nobody will ask for it any more. Returns whether the files with
  // its output may be removed. Replaces a former one.
  virtual void set_on_forget(std::function<bool()> callback) { (void)callback; }

  // Ports, the outstanding wait's id and the streams' positions. The zero value unless the process
  // is behind a bridge.
  virtual ProcessState migration_state() const { return ProcessState(); }
};

// The process's state, if another host could take it over. FAILED_PRECONDITION, naming the process,
// if it has no bridge, or if nothing waits for its exit, because the link was lost just when it
// began; once the agent is back, its wait is sent again.
absl::StatusOr<ProcessState> StateToCarry(const Process& process);

}  // namespace ferry::guest
