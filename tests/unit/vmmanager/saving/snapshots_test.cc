#include "vmmanager/saving/snapshots.h"

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

// A VM with two disks that can hold snapshots, without containers.
class SnapshotsTest : public SandboxTest {
 protected:
  SnapshotsTest() { Open(); }

  void Open() { snapshots_ = std::make_unique<Snapshots>(*host_.inventory, nullptr); }

  std::shared_ptr<UtilityVm> BootWithDisks() {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    for (const char* name : {"root", "data"}) {
      v1::DiskSpec* disk = request.mutable_spec()->add_disks();
      disk->set_name(name);
      disk->set_file(folder_.path() + "/" + name + ".qcow2");
      disk->set_format("qcow2");
    }
    auto vm = Await(host_.inventory->Create(request));
    EXPECT_TRUE(vm.ok()) << vm.status();
    const absl::Status started = Await((*vm)->Start());
    EXPECT_TRUE(started.ok()) << started;
    return *vm;
  }

  static v1::SaveSnapshotRequest SaveRequest(const std::string& tag) {
    v1::SaveSnapshotRequest request;
    request.set_vm("web");
    request.set_tag(tag);
    request.add_devices("root");
    request.add_devices("data");
    request.set_vmstate("root");
    return request;
  }
  static v1::LoadSnapshotRequest LoadRequest(const std::string& tag) {
    v1::LoadSnapshotRequest request;
    request.set_vm("web");
    request.set_tag(tag);
    return request;
  }
  absl::StatusOr<v1::Snapshot> Save(const std::string& tag) {
    return Await(snapshots_->Save(SaveRequest(tag)));
  }
  absl::StatusOr<v1::Snapshot> Load(const std::string& tag) {
    return Await(snapshots_->Load(LoadRequest(tag)));
  }
  absl::Status Delete(const std::string& tag) {
    v1::DeleteSnapshotRequest request;
    request.set_vm("web");
    request.set_tag(tag);
    return Await(snapshots_->Delete(request));
  }
  std::vector<v1::Snapshot> List() {
    v1::ListSnapshotsRequest request;
    request.set_vm("web");
    auto all = Await(snapshots_->List(request));
    EXPECT_TRUE(all.ok()) << all.status();
    return all.ok() ? *all : std::vector<v1::Snapshot>();
  }
  std::vector<state::v1::SnapshotStage> Stages() {
    std::vector<state::v1::SnapshotStage> stages;
    const auto rows = Await(host_.store.ListSnapshots());
    for (const SnapshotRow& row : *rows) {
      state::v1::SnapshotRecord record;
      EXPECT_TRUE(record.ParseFromString(row.record));
      stages.push_back(record.stage());
    }
    return stages;
  }
  std::vector<FakeDiskSnapshot>& OnDisk(const std::string& name) {
    return host_.backend.script().snapshots[folder_.path() + "/" + name + ".qcow2"];
  }
  std::shared_ptr<UtilityVm> Found() { return *host_.inventory->Find("web"); }
  void Restart() {
    // What is under way in it goes on, as in a thread that nobody can stop.
    former_.push_back(std::move(snapshots_));
    RestartDaemon();
    Open();
  }

  std::unique_ptr<Snapshots> snapshots_;
  std::vector<std::unique_ptr<Snapshots>> former_;
};

TEST_F(SnapshotsTest, GoesBackToThatInstant) {
  auto vm = BootWithDisks();
  EXPECT_TRUE(host_.System(*vm)->Step(5));
  const auto saved = Save("before");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->tag(), "before");
  EXPECT_EQ(saved->vmstate(), "root");
  EXPECT_THAT(saved->devices(), ElementsAre("data", "root"));
  EXPECT_TRUE(saved->loadable()) << saved->reason();
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step(5));
  const auto loaded = Load("before");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(host_.System(*vm)->counter(), 5u);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE));
  const auto types = EventTypes();
  EXPECT_THAT(types, Contains("vm.snapshot_saved"));
  EXPECT_THAT(types, Contains("vm.snapshot_loaded"));
  // As often as one likes.
  EXPECT_TRUE(Load("before").ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 5u);
}

TEST_F(SnapshotsTest, AProcessComesBackAndItsClientIsTold) {
  auto vm = BootWithDisks();
  auto guest = vm->guest();
  ASSERT_TRUE(Await(guest->WaitReady()).ok());
  guest::ProcessSpec spec;
  spec.command = {"cat"};
  spec.has_stdin = true;
  auto process = Await(guest->CreateProcess(spec));
  ASSERT_TRUE(process.ok()) << process.status();
  const uint32_t pid = (*process)->pid();
  ASSERT_TRUE(Save("t").ok());
  auto later = Await(guest->CreateProcess(spec));
  ASSERT_TRUE(later.ok());
  auto waits = Begin((*process)->Wait());
  ASSERT_TRUE(Load("t").ok());
  const auto ended = Finish(waits);
  EXPECT_EQ(rpc::ReasonOf(ended.status()), "vm_went_back") << ended.status();
  EXPECT_NE(vm->guest(), guest);
  EXPECT_NE(vm->guest()->Find(pid), nullptr);
  EXPECT_EQ(vm->guest()->processes().size(), 1u);
}

TEST_F(SnapshotsTest, PausedStaysPaused) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  const auto saved = Save("t");
  ASSERT_TRUE(saved.ok());
  EXPECT_TRUE(saved->paused());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Await(vm->Resume()).ok());
  ASSERT_TRUE(Load("t").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_EQ(Row(vm->id()).desired_state, "paused");
  ASSERT_TRUE(Await(vm->Resume()).ok());
  // One that was running runs, whatever the VM is now.
  ASSERT_TRUE(Save("r").ok());
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Load("r").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(SnapshotsTest, AFailedSaveLeavesNothing) {
  auto vm = BootWithDisks();
  host_.backend.script().FailNext("SaveSnapshot", absl::ResourceExhaustedError("no room"));
  const absl::Status failed = Save("t").status();
  EXPECT_EQ(failed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rpc::ReasonOf(failed), "snapshot_not_taken");
  EXPECT_THAT(std::string(failed.message()), HasSubstr("the VM is RUNNING"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_TRUE(Stages().empty());
  EXPECT_TRUE(List().empty());
  EXPECT_TRUE(Save("t").ok());
}

TEST_F(SnapshotsTest, WhatCannotBeWrittenDownIsNotTaken) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("SaveSnapshot");
  auto saving = Begin(snapshots_->Save(SaveRequest("t")));
  Await(host_.backend.script().WaitBlocked("SaveSnapshot"));
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_MAKING));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("SaveSnapshot");
  EXPECT_EQ(Finish(saving).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(OnDisk("root").empty());
  EXPECT_TRUE(Stages().empty());
}

TEST_F(SnapshotsTest, AFailedLoadEndsTheVm) {
  auto vm = BootWithDisks();
  RecordingObserver observer;
  vm->AddObserver(&observer);
  ASSERT_TRUE(Save("t").ok());
  host_.backend.script().FailNext("LoadSnapshot",
                                  absl::DataLossError("Error -22 while loading VM state"));
  const absl::Status failed = Load("t").status();
  EXPECT_EQ(rpc::ReasonOf(failed), "snapshot_load_failed");
  EXPECT_THAT(std::string(failed.message()), HasSubstr("Error -22"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_FALSE(host_.backend.Runs(vm->id()));
  EXPECT_THAT(Row(vm->id()).state_reason, HasSubstr("snapshot load failed: Error -22"));
  EXPECT_EQ(Row(vm->id()).desired_state, "stopped");
  EXPECT_EQ(observer.ends, 1);
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE));
  vm->RemoveObserver(&observer);
  // It can be booted, and go back then.
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_TRUE(Load("t").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(SnapshotsTest, WhatWasRefusedChangesNothing) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  host_.backend.script().FailNext("LoadSnapshot",
                                  AsNothingChanged(absl::FailedPreconditionError("not now")));
  const absl::Status refused = Load("t").status();
  EXPECT_EQ(rpc::ReasonOf(refused), "snapshot_not_loaded");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_NE(vm->guest(), nullptr);
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE));
}

TEST_F(SnapshotsTest, TagsAreTakenOnce) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  const absl::Status again = Save("t").status();
  EXPECT_EQ(again.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(rpc::ReasonOf(again), "snapshot_exists");
  EXPECT_THAT(rpc::NextStepOf(again), HasSubstr("ferryctl snapshot delete web t"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(SnapshotsTest, DeletesAndSaysWhatIsNotThere) {
  BootWithDisks();
  EXPECT_EQ(rpc::ReasonOf(Delete("t")), "no_such_snapshot");
  EXPECT_EQ(rpc::ReasonOf(Load("t").status()), "no_such_snapshot");
  ASSERT_TRUE(Save("t").ok());
  ASSERT_TRUE(Delete("t").ok());
  EXPECT_TRUE(List().empty());
  EXPECT_TRUE(Stages().empty());
  EXPECT_TRUE(absl::IsNotFound(Delete("t")));
}

TEST_F(SnapshotsTest, APartialTagIsListedAndNotLoaded) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  OnDisk("data").clear();
  const auto all = List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_THAT(all[0].missing(), ElementsAre("data"));
  const absl::Status refused = Load("t").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rpc::ReasonOf(refused), "snapshot_partial");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Delete("t").ok());
  EXPECT_TRUE(List().empty());
}

TEST_F(SnapshotsTest, WhatOthersTookIsNotLoaded) {
  auto vm = BootWithDisks();
  for (const char* disk : {"root", "data"}) OnDisk(disk).push_back({{"theirs", 4096, 1}, 9});
  const absl::Status refused = Load("theirs").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rpc::ReasonOf(refused), "snapshot_not_ferrys");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  const auto all = List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_FALSE(all[0].loadable());
  EXPECT_TRUE(Delete("theirs").ok());
}

TEST_F(SnapshotsTest, AVmWithSnapshotsDoesNotMove) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  EXPECT_EQ(rpc::ReasonOf(vm->CheckMayLeave()), "vm_has_snapshots");
  EXPECT_EQ(rpc::ReasonOf(vm->OpenMigration("s1", "host-b:1")), "vm_has_snapshots");
  ASSERT_TRUE(Delete("t").ok());
  EXPECT_TRUE(vm->OpenMigration("s1", "host-b:1").ok());
  EXPECT_EQ(rpc::ReasonOf(Save("t").status()), "wrong_state");
  EXPECT_EQ(rpc::ReasonOf(Load("t").status()), "wrong_state");
  vm->ReturnFromMigration(vm->epoch());
}

TEST_F(SnapshotsTest, OneThatIsNotUpIsRefusedWithWhatToDo) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1000))).ok());
  for (const absl::Status& refused : {Save("u").status(), Load("t").status(), Delete("t")}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("ferryctl start web"));
  }
  const auto all = List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_FALSE(all[0].loadable());
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_TRUE(Load("t").ok());
}

TEST_F(SnapshotsTest, TheyGoWithTheVm) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1000))).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_TRUE(Stages().empty());
}

TEST_F(SnapshotsTest, ADaemonThatIsStartedAnewKnowsThem) {
  BootWithDisks();
  EXPECT_TRUE(host_.System(*Found())->Step(3));
  ASSERT_TRUE(Save("t").ok());
  Restart();
  EXPECT_TRUE(host_.System(*Found())->Step(3));
  EXPECT_EQ(List().size(), 1u);
  const auto loaded = Load("t");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(host_.System(*Found())->counter(), 3u);
}

TEST_F(SnapshotsTest, WhatADyingDaemonHadHalfTakenIsDropped) {
  BootWithDisks();
  host_.backend.script().Block("SaveSnapshot");
  auto saving = Begin(snapshots_->Save(SaveRequest("t")));
  Await(host_.backend.script().WaitBlocked("SaveSnapshot"));
  // QEMU comes to its end with that by itself.
  OnDisk("root").push_back({{"t", 4096, 1}, 0});
  Restart();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*Found())->Step());
  EXPECT_TRUE(Stages().empty());
  EXPECT_TRUE(OnDisk("root").empty());
  EXPECT_TRUE(List().empty());
}

TEST_F(SnapshotsTest, AVmThatADyingDaemonWasTakingBackIsEnded) {
  BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  host_.backend.script().Block("LoadSnapshot");
  auto loading = Begin(snapshots_->Load(LoadRequest("t")));
  Await(host_.backend.script().WaitBlocked("LoadSnapshot"));
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_LOADING));
  const std::string id = Found()->id();
  Restart();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_FAILED);
  EXPECT_THAT(Row(id).state_reason, HasSubstr("snapshot load failed"));
  EXPECT_FALSE(host_.backend.Runs(id));
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE));
  // It can be booted, and has the snapshot.
  ASSERT_TRUE(Await(Found()->Start()).ok());
  const auto all = List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(all[0].loadable()) << all[0].reason();
}

TEST_F(SnapshotsTest, WhoStopsItAtOnceWaitsForNoDisk) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  v1::DeleteSnapshotRequest remove;
  remove.set_vm("web");
  remove.set_tag("t");
  auto just_status = [](Task<absl::StatusOr<v1::Snapshot>> task) -> Task<absl::Status> {
    co_return (co_await std::move(task)).status();
  };
  for (const std::string verb : {"SaveSnapshot", "LoadSnapshot", "DeleteSnapshot"}) {
    host_.backend.script().Block(verb);
    Pending<absl::Status> under_way;
    if (verb == "SaveSnapshot") under_way = Begin(just_status(snapshots_->Save(SaveRequest("u"))));
    if (verb == "LoadSnapshot") under_way = Begin(just_status(snapshots_->Load(LoadRequest("t"))));
    if (verb == "DeleteSnapshot") under_way = Begin(snapshots_->Delete(remove));
    Await(host_.backend.script().WaitBlocked(verb));
    EXPECT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok()) << verb;
    EXPECT_EQ(Finish(under_way).code(), absl::StatusCode::kCancelled) << verb;
    EXPECT_EQ(vm->system(), nullptr) << verb;
    host_.backend.script().Release(verb);
    ASSERT_TRUE(Await(vm->Start()).ok()) << verb;
  }
  // What was half taken went with the next boot.
  const auto all = List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].tag(), "t");
  EXPECT_TRUE(all[0].loadable()) << all[0].reason();
}

TEST_F(SnapshotsTest, TheyAreJobsThatNobodyCancels) {
  BootWithDisks();
  JobRegistry jobs(io_.get_executor(), host_.store, host_.events);
  snapshots_ = std::make_unique<Snapshots>(*host_.inventory, nullptr, &jobs);
  host_.backend.script().Block("SaveSnapshot");
  auto taking = Begin(snapshots_->Save(SaveRequest("t")));
  Await(host_.backend.script().WaitBlocked("SaveSnapshot"));
  ASSERT_EQ(jobs.ListJobs().size(), 1u);
  const v1::Job job = jobs.ListJobs().front();
  EXPECT_EQ(job.kind(), v1::JOB_KIND_SNAPSHOT);
  EXPECT_EQ(job.what(), "take t");
  EXPECT_THAT(job.why_not_cancellable(), HasSubstr("in one piece"));
  EXPECT_EQ(rpc::ReasonOf(Await(jobs.CancelJob(job.id()))), "not_cancellable");
  host_.backend.script().Release("SaveSnapshot");
  EXPECT_TRUE(Finish(taking).ok());
  ASSERT_TRUE(Load("t").ok());
  ASSERT_TRUE(Delete("t").ok());
  EXPECT_TRUE(absl::IsNotFound(Delete("t")));
  std::vector<std::string> results;
  for (const v1::Job& each : jobs.ListJobs()) results.push_back(each.result());
  EXPECT_THAT(results, UnorderedElementsAre("took t", "went back to t", "deleted t", ""));
  Await(jobs.Close());
}

TEST_F(SnapshotsTest, OneOfWhichNobodyKnowsHowFarItCameIsLookedFor) {
  auto vm = BootWithDisks();
  host_.backend.script().FailNext("SaveSnapshot", absl::DeadlineExceededError("silence"));
  EXPECT_FALSE(Save("t").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_MAKING));
  // Its VMM comes to its end with that by itself.
  OnDisk("root").push_back({{"t", 4096, 1}, 0});
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_TRUE(Stages().empty());
  EXPECT_TRUE(OnDisk("root").empty());
}

TEST_F(SnapshotsTest, ARefusedLoadIsSettledAsSoonAsThatCanBe) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  host_.backend.script().FailNext("LoadSnapshot", AsNothingChanged(absl::AbortedError("no")));
  host_.at_point = [&](const std::string& point) {
    if (point == "SNAPSHOT.loading") host_.store.FailNext(absl::ResourceExhaustedError("full"));
  };
  EXPECT_FALSE(Load("t").ok());
  host_.at_point = [](const std::string&) {};
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  Until([&] { return List()[0].loadable(); });
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE));
  // The next daemon would end one that it finds half loaded.
  Restart();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
}

TEST_F(SnapshotsTest, WhatANewerDaemonTookIsLeftToIt) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  const auto rows = Await(host_.store.ListSnapshots());
  state::v1::SnapshotRecord record;
  ASSERT_TRUE(record.ParseFromString(rows->front().record));
  record.set_schema_version(record.schema_version() + 1);
  record.set_stage(state::v1::SNAPSHOT_STAGE_LOADING);
  const std::string newer = record.SerializeAsString();
  ASSERT_TRUE(Await(host_.store.PutSnapshot({vm->id(), "t", newer})).ok());
  Restart();
  // It was on its way back, so it does not run; but what is in its record stays its own.
  EXPECT_EQ(Found()->state(), v1::VM_STATE_FAILED);
  ASSERT_TRUE(Await(Found()->Start()).ok());
  EXPECT_EQ(rpc::ReasonOf(Load("t").status()), "snapshot_of_newer");
  EXPECT_FALSE(List()[0].loadable());
  const auto now = Await(host_.store.ListSnapshots());
  state::v1::SnapshotRecord kept;
  ASSERT_TRUE(kept.ParseFromString(now->front().record));
  EXPECT_EQ(kept.schema_version(), record.schema_version());
}

TEST_F(SnapshotsTest, AVmThatEndsBetweenTwoStepsIsNotTakenBack) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Save("t").ok());
  for (const char* late : {"SNAPSHOT.stopped", "SNAPSHOT.loading", "SNAPSHOT.loaded"}) {
    host_.at_point = [&](const std::string& point) {
      // That it has ended is heard some steps later.
      if (point == late) host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
    };
    const bool is_save = std::string(late) == "SNAPSHOT.stopped";
    EXPECT_FALSE((is_save ? Save("u") : Load("t")).ok()) << late;
    host_.at_point = [](const std::string&) {};
    EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED) << late;
    EXPECT_EQ(vm->system(), nullptr) << late;
    EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_WHOLE)) << late;
    ASSERT_TRUE(Await(vm->Start()).ok()) << late;
  }
}

TEST_F(SnapshotsTest, ADaemonThatStopsWaitsForNoDisk) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("SaveSnapshot");
  auto saving = Begin(snapshots_->Save(SaveRequest("t")));
  Await(host_.backend.script().WaitBlocked("SaveSnapshot"));
  Await(vm->Detach(milliseconds(0)));
  EXPECT_TRUE(absl::IsUnavailable(Finish(saving).status()));
  EXPECT_THAT(Stages(), ElementsAre(state::v1::SNAPSHOT_STAGE_MAKING));
}

}  // namespace
}  // namespace ferry::vm
