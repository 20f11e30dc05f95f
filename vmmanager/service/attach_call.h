#pragma once

#include <functional>
#include <memory>
#include <string>

#include "ferry/v1/guest.grpc.pb.h"
#include "guestmanager/process.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

using AttachStream = rpc::BidiStream<v1::AttachRequest, v1::AttachResponse>;

// Has `waiting` take up `next`, if that is output which goes on where its own ends and both are no
// more than a client is sent at once.
bool MergeOutput(v1::AttachResponse* waiting, v1::AttachResponse* next);

// One Attach call: the bridge between its gRPC stream and the process's relay. It holds no stdio
// bytes of its own beyond what gRPC has queued.
class AttachCall final : public guest::AttachSink, public MoveObserver {
 public:
  // `exit_taken` is told when the client has taken the process's exit status.
  using OnExitTaken = std::function<void(const std::string& vm_id, uint32_t process_id)>;

  // What clients are told of a process.
  using Describe = std::function<v1::Process(const UtilityVm& vm, const guest::Process& process)>;

  AttachCall(VmInventory& inventory, std::shared_ptr<AttachStream> stream, Describe describe,
             OnExitTaken exit_taken)
      : inventory_(inventory),
        stream_(std::move(stream)),
        describe_(std::move(describe)),
        on_exit_taken_(std::move(exit_taken)),
        stalled_(inventory.deps().executor),
        resized_(inventory.deps().executor),
        over_(inventory.deps().executor) {}
  ~AttachCall() override;

  // The whole conversation; returns how the call ends.
  Task<absl::Status> Run();

  // guest::AttachSink
  bool writable() const override;
  void OnOutput(guest::Stream stream, guest::StreamPosition position,
                std::string_view data) override;
  void OnOutputEnd(guest::Stream stream, uint64_t offset) override;
  void OnOutputDropped(guest::Stream stream, uint64_t from, uint64_t to) override;
  void OnStdinTaken(uint64_t offset, bool end_taken) override;
  void OnStdinRewind(uint64_t offset) override;
  void OnStdinClosed() override;
  void OnExited(guest::ExitStatus status) override;
  void OnDetached(const absl::Status& reason) override;

  // MoveObserver
  void OnNotice(const MigrationNotice& notice) override;

 private:
  Task<absl::Status> Open(const v1::AttachRequest::Open& open);
  Task<void> ReadRequests();
  Task<void> WatchWritable();
  Task<void> ApplySizes();
  void End(const absl::Status& outcome);
  Task<absl::Status> Handle(const v1::AttachRequest& request);
  // See UtilityVm::UsableGuest. NOT_FOUND if the client has to look elsewhere, CANCELLED if it is
  // gone.
  Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> UsableGuest();
  // Where a client begins with its input must be known, unless it is the one that goes on.
  // FAILED_PRECONDITION or UNAVAILABLE if the guest could not say it within
  // HostSettings::outcome_wait.
  Task<absl::Status> AwaitInput(std::shared_ptr<guest::Guest> guest, std::string attachment_id);
  absl::Status InputNotKnown() const;
  void SendOpened();
  void SendNotice(const MigrationNotice& notice);

  VmInventory& inventory_;
  std::shared_ptr<AttachStream> stream_;
  const Describe describe_;
  const OnExitTaken on_exit_taken_;
  std::shared_ptr<UtilityVm> vm_;
  std::shared_ptr<guest::Process> process_;
  std::unique_ptr<guest::Attachment> attachment_;
  mutable AsyncEvent stalled_;  // the relay was told to wait
  AsyncEvent resized_;          // size_ is newer than the terminal's
  v1::TerminalSize size_;
  AsyncEvent over_;
  absl::Status outcome_;
  bool opened_ = false;
  bool exit_taken_ = false;
};

}  // namespace ferry::vm
