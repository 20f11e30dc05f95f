#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/containers/container_home.h"
#include "vmmanager/containers/container_record.h"
#include "vmmanager/containers/oci_specification.h"
#include "vmmanager/images/image.h"
#include "vmmanager/sandbox/counted.h"
#include "vmmanager/state/container_check.h"

namespace ferry::vm {

// One container in a VM.
//
//   making -> CREATED -> RUNNING <-> PAUSED -> STOPPED -> gone
//
// Operations wait for each other; what a state does not allow fails with FAILED_PRECONDITION. It
// stops when its init has exited, or when its VM ends. Thread: the executor's only.
class VmContainer : public std::enable_shared_from_this<VmContainer> {
 public:
  // One that a migration brings, or a former daemon had, is not `known` until TakeUp().
  VmContainer(ContainerDeps& deps, std::shared_ptr<ContainerHome> home, StoredContainer stored,
              bool known);

  const std::string& id() const { return record().container_id(); }
  const std::string& guest_id() const { return GuestIdOf(record()); }
  const std::string& name() const { return stored_.spec.name(); }
  const v1::ContainerSpec& spec() const { return stored_.spec; }
  const state::v1::ContainerRecord& record() const { return stored_.record; }
  const std::shared_ptr<ContainerHome>& home() const { return home_; }
  UtilityVm& vm() const { return *home_->vm; }
  v1::ContainerState state() const { return ToState(record().stage()); }
  bool being_made() const { return Is(state::v1::CONTAINER_STAGE_MAKING); }
  // Being made or removed: found by a new daemon, it is taken out.
  bool is_half() const;
  // Also when it is just being killed for that.
  bool being_removed() const;
  // It is going to be removed, as long as this lives.
  std::unique_ptr<Counted> AnnounceRemoval() { return std::make_unique<Counted>(&removals_); }
  bool gone() const { return gone_; }
  v1::Container Describe(bool whole) const;

  // Brings everything into the VM and makes the container of it. `go_on` is asked before each step.
  // If it fails, TakeOut() takes back what there is.
  Task<absl::Status> Make(Image image, std::vector<SharedMount> mounts,
                          std::function<absl::Status()> go_on);

  Task<absl::Status> Start();
  Task<absl::Status> Stop(milliseconds patience);
  Task<absl::Status> Pause();
  Task<absl::Status> Resume();
  Task<absl::Status> Update(v1::ContainerLimits changes);
  Task<absl::StatusOr<bridge::ContainerMetrics>> Stats();
  // Gives it more room for what it writes, of so many bytes in all. FAILED_PRECONDITION unless it
  // is in its guest.
  Task<absl::Status> GrowScratch(uint64_t bytes);
  // Of a container that has just come: returns when this host knows it wholly. Where a migration
  // holds its VM, it waits as whatever is asked of the VM itself does, and fails as that does.
  Task<absl::Status> AwaitTakenUp();
  // See guest::Process::ReadKept. Also when its VM has ended; NOT_FOUND if it is kept no more.
  absl::StatusOr<guest::KeptOutput> ReadOutput(guest::Stream stream, uint64_t since,
                                               size_t limit) const;
  // FAILED_PRECONDITION, with what to do, unless other processes can be run in it.
  absl::Status CheckRunning(const std::string& operation) const;
  // OCI's "process", as JSON, for another process in it.
  absl::StatusOr<std::string> ExecProcess(const v1::ProcessSpec& spec) const {
    return MakeExecProcess(record().oci_process(), spec);
  }

  // It is to be removed, whatever becomes of this daemon. FAILED_PRECONDITION while it runs, unless
  // forced; then it is killed first, unless its VM ends anyway.
  enum class Running { kRefuse, kKill, kLeave };
  Task<absl::Status> MarkRemoving(Running running);
  // Takes it out of its VM, in the opposite order, removes its scratch disk and its row, and lets
  // go of its image. Where that fails, it can be repeated.
  Task<absl::Status> TakeOut();

  // Of a container of a former daemon, or another host's: finds out what became of it. What was
  // asked of it meanwhile goes on then.
  Task<void> TakeUp();
  // Its VM ended, and its init with it.
  void VmEnded();
  // Tells those who follow this host's events that it has come here, and how it is.
  void TellArrived();
  // Its VM was saved, and what it has there with it: whoever wants to change it waits until
  // TakeUp(), or is refused as long as nothing brings the VM back.
  void VmSaved();
  // Its VM goes on from a file in which it is that. TakeUp() follows.
  Task<absl::Status> GoOnAs(StoredContainer then);
  // All of it, for another host.
  state::v1::ContainerRecord Export() const { return ToRecord(stored_); }
  // Before it goes to another host: tries again to take over what a forgotten init has printed.
  // FAILED_PRECONDITION if that still cannot be done: it would be lost.
  absl::Status TakeOverOutput();
  // It is another host's now, or never was this one's: forgets it, and touches nothing of it. An
  // error if its row is still there.
  Task<absl::Status> Depart();
  // Whether nobody can ask for its exit status any more, or has to.
  bool exit_is_taken() const;
  // The daemon stops: whoever waits for its end, or to change it, gets UNAVAILABLE.
  void Close() {
    closed_ = true;
    stopped_.Set();
    taken_up_.Set();
  }
  // Set when it has stopped.
  void set_on_stopped(std::function<void()> callback) { on_stopped_ = std::move(callback); }

  // Its scratch disk is in that file from now on; that the VM has it there is the caller's.
  Task<absl::Status> UseScratch(std::string file);

  Task<absl::Status> Persist();

 private:
  using Stage = state::v1::ContainerStage;

  bool Is(Stage stage) const { return record().stage() == stage; }
  bool lives() const;
  // Whether what it has in the guest is still there.
  bool in_guest() const;
  std::string BundlePath() const;
  std::string RootPath() const { return BundlePath() + "/rootfs"; }
  bridge::CombinedLayers Layers() const;
  // Its init runs, since a moment ago.
  Task<absl::Status> Started(std::shared_ptr<guest::Process> init);
  // The init that another host, or a former daemon, had started without writing it down here;
  // nullptr if there is none.
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> StartedBefore();
  // For whoever comes before it was asked for that.
  Task<absl::Status> TakeInEarlierStart();
  // The right to change it, once nothing else does and it has been taken up.
  Task<absl::StatusOr<AsyncMutex::Guard>> Turn();
  absl::Status WrongState(const std::string& operation) const;
  // A daemon died between starting it and writing down which process that is.
  absl::Status InitUnknown() const;
  Task<absl::Status> BringLayers(const std::function<absl::Status()>* go_on);
  Task<absl::Status> BringScratch();
  absl::Status CheckThere(const std::function<absl::Status()>& go_on) const;
  Task<absl::Status> CreateInit(const Image* image, const std::vector<SharedMount>* mounts);
  Task<absl::Status> SetStage(Stage stage);
  Task<absl::Status> Kill();
  Task<absl::Status> AwaitStopped(milliseconds patience);
  Task<absl::Status> TidyGuest();
  void TakeUpDisks();
  // What it had there went with the VM's boot, but for what it has printed.
  void LeaveGuest();
  // What it has printed, wherever that is kept.
  void DiscardOutput();
  // Its init was, or is to be, forgotten: what that has printed is the container's from now on.
  // False: it could not be taken over yet, and stays where it is.
  bool LeaveInit();
  void NoteReturns();
  // As its agent says, once that can be asked and answers.
  static Task<void> FindState(std::shared_ptr<VmContainer> self);
  Task<absl::Status> AskState();
  static Task<void> AwaitNotice(std::shared_ptr<VmContainer> self);
  void Watch();
  // Of an init that may have exited long ago.
  void WatchOutput();
  static Task<void> WatchInit(std::shared_ptr<VmContainer> self);
  void Stopped(const state::v1::ContainerExit& exit);
  void PersistSoon();
  static Task<void> PersistLater(std::shared_ptr<VmContainer> self);

  ContainerDeps& deps_;
  const std::shared_ptr<ContainerHome> home_;
  StoredContainer stored_;
  bool goes_back_ = false;  // to an earlier moment, once its VM runs
  uint64_t boot_ = 0;       // of the VM, that it was brought into; 0: none
  std::shared_ptr<guest::Process> init_;
  AsyncMutex operation_;
  AsyncEvent taken_up_;
  size_t removals_ = 0;  // under way
  AsyncEvent stopped_;
  std::function<void()> on_stopped_;
  bool announced_ = false;  // others were told that there is one
  bool awaits_notice_ = false;
  bool starting_ = false;  // its init may have ended before it is known here
  bool gone_ = false;
  bool closed_ = false;
};

}  // namespace ferry::vm
