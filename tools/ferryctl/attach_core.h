#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "ferry/v1/guest.pb.h"

// The client's half of the attach conversation (proto/ferry/v1/guest.proto) as a pure state
// machine: it knows which bytes have been taken on either side, over any number of connections.
namespace ferry::ctl {

// How much typed or piped input is kept until the process has taken it.
inline constexpr size_t kStdinWindow = 1 << 20;
inline constexpr size_t kStdinChunk = 64 << 10;
// Output is acknowledged after this much at the latest.
inline constexpr uint64_t kAckEvery = 64 << 10;

// What one message from the daemon asks the driver to do.
struct AttachEffect {
  enum class Kind {
    kNone,
    kOpened,
    kWrite,            // `text` to `stream`, then Written()
    kNotice,           // `text` is for the person
    kExited,           // exit_status() is known; TakeRequests() acknowledges it
    kMigrationOpened,  // `text` is the destination
    kMoved,            // `text` is the destination
    kMigrationClosed,
    kDetached,  // `text` is the reason
    kBroken,    // the daemon broke the protocol (`text`): connect again and ask for what is missing
    kLost,      // bytes are gone for good (`text`): give up
  };
  Kind kind = Kind::kNone;
  v1::StdioStream stream = v1::STDIO_STREAM_UNSPECIFIED;
  std::string text;
  uint64_t offset = 0;  // kWrite: of the text's first byte
};

// Where a client that only watches begins.
struct WatchFrom {
  std::optional<v1::AttachRequest::Position> std_out;  // unset: with the oldest byte that is kept
  std::optional<v1::AttachRequest::Position> std_err;
};

class AttachCore {
 public:
  AttachCore(std::string vm, uint32_t process_id, std::string attachment_id, bool steal,
             std::optional<WatchFrom> watch);

  // Begins a connection: forgets what the last one had in flight and returns its first message.
  v1::AttachRequest Open();

  AttachEffect OnMessage(v1::AttachResponse message);

  // The output of the last kWrite has left this process completely.
  void Written(v1::StdioStream stream);

  // Input. AddStdin wants at most StdinRoom() bytes.
  size_t StdinRoom() const;
  void AddStdin(absl::string_view data);
  void EndStdin();

  // What is to be sent now on the open connection. With `flush`, small acknowledgements too.
  std::vector<v1::AttachRequest> TakeRequests(bool flush);
  // Whether an acknowledgement waits for more output to come.
  bool ack_pending() const { return AckPending(stdout_) || AckPending(stderr_); }

  bool opened() const { return opened_; }
  const std::optional<v1::ExitStatus>& exit_status() const { return exit_status_; }
  // How far the output was written out.
  WatchFrom written() const;
  // As the daemon told it last.
  const v1::Process& process() const { return process_; }
  // No input is wanted any more: the process took its end or closed it.
  bool stdin_over() const { return stdin_closed_ || stdin_end_taken_; }
  uint64_t stdin_unacknowledged() const { return stdin_buffer_.size(); }

 private:
  struct Output {
    v1::StdioStream name;
    bool known = false;  // a position has been learned
    uint32_t generation = 0;
    bool reopened = false;  // nothing came of it yet on this connection
    uint64_t next = 0;      // first byte not yet received
    uint64_t written = 0;   // first byte not yet written out
    uint64_t acked = 0;
    bool ended = false;
    bool end_acked = false;
  };

  static void Begin(const v1::AttachRequest::Position& position, Output* output);
  static bool AckPending(const Output& output);
  Output* Find(v1::StdioStream stream);
  void SetPosition(const Output& output, v1::AttachRequest::Position* position) const;
  AttachEffect OnOpened(const v1::AttachResponse::Opened& opened);
  AttachEffect OnOutput(v1::AttachResponse::Output* output);
  AttachEffect OnOutputEnd(const v1::AttachResponse::OutputEnd& end);
  AttachEffect OnDropped(const v1::AttachResponse::OutputDropped& dropped);
  AttachEffect OnStdinTaken(uint64_t offset, bool end_taken);
  AttachEffect OnStdinRewind(uint64_t offset);
  void TakeStdin(std::vector<v1::AttachRequest>* requests);
  void TakeAck(Output* output, bool flush, std::vector<v1::AttachRequest>* requests);

  const std::string vm_;
  const uint32_t process_id_;
  const std::string attachment_id_;
  const bool steal_;
  const bool watches_;  // takes neither input nor the exit status from others

  bool opened_ = false;       // on this connection
  bool opened_once_ = false;  // on any
  v1::Process process_;
  Output stdout_;
  Output stderr_;
  std::optional<v1::ExitStatus> exit_status_;
  bool exit_taken_sent_ = false;

  // Input bytes [stdin_base_, stdin_base_ + size) are kept; those below stdin_sent_ are sent.
  uint32_t stdin_generation_ = 0;
  uint64_t stdin_base_ = 0;
  uint64_t stdin_sent_ = 0;
  uint64_t stdin_ever_sent_ = 0;  // over former connections, too
  std::string stdin_buffer_;
  bool stdin_ended_ = false;
  bool stdin_end_sent_ = false;
  bool stdin_end_taken_ = false;
  bool stdin_closed_ = false;
};

}  // namespace ferry::ctl
