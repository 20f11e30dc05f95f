#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmanager/input_stream.h"
#include "guestmanager/output_stream.h"
#include "guestmanager/process.h"
#include "guestmanager/spool.h"
#include "guestmanager/spool_file.h"

namespace ferry::guest {

// The one relay between a process's streams and its attachers, for exec and attach alike. A
// detached process has spools in between, which take its output even when nobody is attached.
class AttachRelay : public OutputConsumer,
                    public InputObserver,
                    public std::enable_shared_from_this<AttachRelay> {
 public:
  AttachRelay(std::shared_ptr<LinkGate> gate, const ProcessState& state,
              const SpoolSettings& spool);

  // Opens the ports that the state names.
  absl::Status Listen(const ProcessState& state);
  void Start();  // detached: begins to spool
  // The exit status was taken by the interactive attacher.
  void set_on_exit_taken(std::function<void()> callback) { on_exit_taken_ = std::move(callback); }

  // Another client attached interactively, or stdin's end was taken: a restarted daemon has to
  // know.
  void set_on_changed(std::function<void()> callback) { on_changed_ = std::move(callback); }

  // See Process.
  Task<void> AwaitInput(std::string attachment_id);
  void SettleInput() { input_known_.Set(); }
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(AttachOptions options, AttachSink& sink);
  bool attached() const;
  absl::StatusOr<KeptOutput> ReadKept(Stream stream, uint64_t since, size_t limit) const;
  void SetExit(ExitStatus status);
  // How much of each stream is kept from here on; drops what is too much.
  void SetSpoolCapacity(size_t bytes);
  // Writes down what could not be kept so far, if that can be now.
  void KeepRest();
  // Removes what is kept of the output; the process and its streams are over.
  void Forget();
  // Ends every attachment; streams are closed for good.
  void Close(const absl::Status& reason);

  // Adds the streams' positions, the spools and the attacher's id.
  void FillState(ProcessState* state) const;

  bool ConsumerReady(Stream stream) const override;
  void OnData(Stream stream, StreamPosition position, std::string_view data) override;
  void OnEnd(Stream stream, uint64_t offset) override;
  void OnDropped(Stream stream, uint64_t from, uint64_t to) override;
  void OnLost(Stream stream, const absl::Status& reason) override;
  void OnTaken(uint64_t offset, bool end_taken) override;
  void OnRewind(uint64_t offset) override;
  void OnReaderGone() override;

 private:
  struct Client;  // one attacher
  class Hold;     // its Attachment
  struct Output {
    std::unique_ptr<OutputStream> stream;
    Spool spool{0};
    SpoolFile file{"", 0};
    bool behind = false;          // the file could not be written, and will be tried again
    std::optional<uint64_t> end;  // of the spooled output
    uint64_t went_back_at = 0;
  };

  Output& output(Stream stream) { return stream == Stream::kStderr ? err_ : out_; }
  const Output& output(Stream stream) const { return stream == Stream::kStderr ? err_ : out_; }
  // As clients know it: by the guest's timeline, too.
  StreamPosition AsTold(StreamPosition position) const;
  std::shared_ptr<Client> interactive() const;
  // Whether that is the last interactive attacher, coming back.
  bool IsLast(const std::string& attachment_id) const;
  absl::StatusOr<uint64_t> StartOf(Stream stream, bool watches,
                                   const std::optional<StreamPosition>& wish) const;
  uint64_t KeepFrom(Stream stream) const;
  void KeepAndAcknowledge(Stream stream);
  static Task<void> KeepLater(std::shared_ptr<AttachRelay> self, Stream stream);
  void Pump(const std::shared_ptr<Client>& client);
  void PumpSpool(const std::shared_ptr<Client>& client, Stream stream);
  void PumpAll();
  void Acknowledge(const std::shared_ptr<Client>& client, Stream stream, uint64_t offset, bool end);
  void Detach(const std::shared_ptr<Client>& client);
  void End(const std::shared_ptr<Client>& client, const absl::Status& reason);
  void NoteInput();

  std::shared_ptr<LinkGate> gate_;
  bool spooled_;
  std::string attachment_id_;  // of the last interactive attacher
  AsyncEvent input_known_;     // how far the guest is with stdin, as far as that matters any more
  bool input_ended_;           // and on_changed_ was called for it
  std::unique_ptr<InputStream> in_;
  Output out_;
  Output err_;
  std::optional<ExitStatus> exit_;
  std::vector<std::shared_ptr<Client>> clients_;
  std::function<void()> on_exit_taken_;
  std::function<void()> on_changed_;
  absl::Status closed_;
};

}  // namespace ferry::guest
