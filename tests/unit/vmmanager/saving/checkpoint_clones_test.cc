// VMs that are made of checkpoints of others.
#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/saving/clone_plan.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

class CheckpointClonesTest : public CheckpointsTest {
 protected:
  CheckpointClonesTest() {
    // Copies are looked at once they are there.
    host_.overlays.before_copy = [](const std::string& to) -> Task<absl::Status> {
      std::ofstream(to) << EmptyQcow2(kDiskBytes);
      co_return absl::OkStatus();
    };
  }
  static v1::RestoreCheckpointAsRequest CloneOf(const std::string& name) {
    v1::RestoreCheckpointAsRequest request;
    request.set_vm("web");
    request.set_name(name);
    request.set_new_name("web-2");
    return request;
  }
  absl::StatusOr<v1::Vm> Clone(const v1::RestoreCheckpointAsRequest& request) {
    return Await(checkpoints_->RestoreAs(request));
  }
  absl::StatusOr<v1::Vm> Clone(const std::string& name) { return Clone(CloneOf(name)); }
  // How often anything of a clone is left.
  void ExpectNothingLeft() {
    EXPECT_FALSE(host_.inventory->Find("web-2").ok());
    for (const auto& [file, below] : host_.overlays.files) {
      EXPECT_THAT(file, Not(HasSubstr("web-2")));
    }
    size_t notes = 0;
    for (const auto& each :
         std::filesystem::recursive_directory_iterator(folder_.path() + "/state")) {
      if (each.path().extension() == ".drafts") ++notes;
    }
    EXPECT_EQ(notes, 0u);
  }
  // In the middle of a copy: `then` is done, and the copy goes on afterwards.
  void WhileCopying(std::function<void()> then) {
    host_.overlays.before_copy =
        [then = std::move(then)](const std::string& to) -> Task<absl::Status> {
      std::ofstream(to) << EmptyQcow2(kDiskBytes);
      then();
      co_return absl::OkStatus();
    };
  }
};

TEST_F(CheckpointClonesTest, AVmOfDisksAloneHasItsOwnAndIsStopped) {
  auto vm = BootWithDisks();
  v1::CreateCheckpointRequest disks = Request("a");
  disks.set_disk_only(true);
  ASSERT_TRUE(Take(disks).ok());
  const auto made = Clone("a");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->state(), v1::VM_STATE_STOPPED);
  EXPECT_EQ(made->name(), "web-2");
  EXPECT_NE(made->id(), vm->id());
  EXPECT_EQ(made->spec().disks(0).file(), File("root.web-2.qcow2"));
  EXPECT_EQ(made->spec().disks(1).file(), File("data.web-2.qcow2"));
  EXPECT_EQ(host_.overlays.copied[File("root.web-2.qcow2")], File("root.qcow2"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(DiskOf(*vm, 0), File("root.a.qcow2"));
  // Neither depends on the other.
  EXPECT_TRUE(Delete("a").ok());
  auto clone = *host_.inventory->Find("web-2");
  EXPECT_TRUE(Start(clone).ok());
  EXPECT_EQ(clone->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointClonesTest, AVmWithMemoryGoesOnFromThereBesideTheOther) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::SetVmRequest set;
  set.set_memory_mb(512);
  ASSERT_TRUE(Await(vm->Set(set)).ok());
  const auto made = Clone("a");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->state(), v1::VM_STATE_SAVED);
  // What it has in the memory, and what it will boot with.
  EXPECT_EQ(made->until_boot().memory_mb(), 256u);
  EXPECT_EQ(made->spec().memory_mb(), 512u);
  auto clone = *host_.inventory->Find("web-2");
  const std::string file = FileOf(*clone);
  EXPECT_THAT(file, HasSubstr("/saved/" + clone->id() + "/"));
  const auto started = Start(clone);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(clone->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(clone->document().virtual_machine.devices.scsi.at("0").attachments.at("0").path,
            File("root.web-2.qcow2"));
  EXPECT_FALSE(std::filesystem::exists(file));
  // And the checkpoint is as good as it was.
  EXPECT_TRUE(Revert("a").ok());
}

TEST_F(CheckpointClonesTest, ItIsThereAfterARestartAndNothingElse) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Clone("a").ok());
  Restart();
  auto clone = host_.inventory->Find("web-2");
  ASSERT_TRUE(clone.ok());
  EXPECT_EQ((*clone)->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(host_.overlays.files.contains(File("root.web-2.qcow2")));
  EXPECT_TRUE(Start(*clone).ok());
}

TEST_F(CheckpointClonesTest, WithoutMemoryIfThatIsWanted) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  request.set_disk_only(true);
  const auto made = Clone(request);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->state(), v1::VM_STATE_STOPPED);
}

TEST_F(CheckpointClonesTest, APausedOneStaysPausedAndStartsByItselfNever) {
  auto vm = BootWithDisks();
  v1::SetVmRequest set;
  set.set_autostart(true);
  ASSERT_TRUE(Await(vm->Set(set)).ok());
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Take("p").ok());
  const auto made = Clone("p");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_FALSE(made->spec().autostart());
  auto clone = *host_.inventory->Find("web-2");
  ASSERT_TRUE(Start(clone).ok());
  EXPECT_EQ(clone->state(), v1::VM_STATE_PAUSED);
}

TEST_F(CheckpointClonesTest, FilesAreWhereTheyAreWantedAndNeverOverOthers) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.overlays.files[File("root.web-2.qcow2")] = "somebody's";
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  v1::CheckpointDiskWish* wish = request.add_disks();
  wish->set_name("data");
  wish->set_file(File("elsewhere.qcow2"));
  const auto made = Clone(request);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->spec().disks(0).file(), File("root.web-2.qcow2-2"));
  EXPECT_EQ(made->spec().disks(1).file(), File("elsewhere.qcow2"));
  EXPECT_EQ(host_.overlays.files[File("root.web-2.qcow2")], "somebody's");
  request.set_new_name("web-3");
  EXPECT_EQ(Clone(request).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CheckpointClonesTest, WhatCannotBeMadeIsRefusedBeforeAnythingIs) {
  BootWithDisks();
  v1::CreateCheckpointRequest half = Request("half");
  half.set_disk_only(true);
  v1::CheckpointDiskWish* out = half.add_disks();
  out->set_name("data");
  out->set_left_out(true);
  ASSERT_TRUE(Take(half).ok());
  EXPECT_EQ(rpc::ReasonOf(Clone("half").status()), "disk_left_out");
  EXPECT_EQ(rpc::ReasonOf(Clone("never").status()), "no_such_checkpoint");
  ASSERT_TRUE(Take("a").ok());
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  request.set_new_name("web");
  EXPECT_EQ(Clone(request).status().code(), absl::StatusCode::kAlreadyExists);
  request.set_new_name("no name");
  EXPECT_EQ(Clone(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = CloneOf("a");
  request.add_disks()->set_name("nope");
  EXPECT_EQ(rpc::ReasonOf(Clone(request).status()), "unknown_disk");
  request.mutable_disks(0)->set_name("root");
  request.mutable_disks(0)->set_left_out(true);
  EXPECT_EQ(Clone(request).status().code(), absl::StatusCode::kInvalidArgument);
  ExpectNothingLeft();
}

TEST_F(CheckpointClonesTest, DisksThatWereWrittenToSinceAreFound) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  std::ofstream(File("root.qcow2"), std::ios::app) << "more";
  const auto made = Clone("a");
  EXPECT_THAT(made.status().message(), HasSubstr("was written to"));
  ExpectNothingLeft();
  // Of its disks alone nobody can tell.
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  request.set_disk_only(true);
  EXPECT_TRUE(Clone(request).ok());
}

TEST_F(CheckpointClonesTest, AContainersMemoryIsNotCloned) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  state::v1::CheckpointRecord record = vm->checkpoints().at("a");
  record.set_containers(1);
  CheckpointRow row{vm->id(), "a", record.SerializeAsString()};
  vm->AddCheckpoint(row);
  const auto made = Clone("a");
  EXPECT_EQ(rpc::ReasonOf(made.status()), "containers_not_cloned");
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  request.set_disk_only(true);
  EXPECT_TRUE(Clone(request).ok());
}

// Neither a wrong usage, as of a file that somebody names, nor an error of ours.
TEST_F(CheckpointClonesTest, DamagedMemoryIsRefused) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  for (const uintmax_t bytes : {200u, 0u}) {
    std::filesystem::resize_file(vm->checkpoints().at("a").memory_file(), bytes);
    const absl::Status refused = Clone("a").status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_EQ(rpc::ReasonOf(refused), "memory_damaged");
    ExpectNothingLeft();
  }
}

TEST_F(CheckpointClonesTest, WhatFailsLeavesNothing) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.overlays.before_copy = [](const std::string&) -> Task<absl::Status> {
    co_return absl::ResourceExhaustedError("no room");
  };
  const auto full = Clone("a");
  EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.status().message(), HasSubstr("whole copies"));
  ExpectNothingLeft();
  WhileCopying([] {});
  host_.at_point = [this](const std::string& point) {
    if (point == "CLONE.memory") host_.store.FailNext(absl::ResourceExhaustedError("full"));
  };
  EXPECT_FALSE(Clone("a").ok());
  ExpectNothingLeft();
  host_.at_point = [](const std::string&) {};
  EXPECT_TRUE(Clone("a").ok());
}

TEST_F(CheckpointClonesTest, NoCheckpointIsDeletedWhileOneIsCopied) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  Pending<absl::Status> deleting;
  v1::DeleteCheckpointRequest remove;
  remove.set_vm("web");
  remove.set_name("a");
  host_.overlays.before_copy = [this, remove,
                                &deleting](const std::string& to) -> Task<absl::Status> {
    std::ofstream(to) << EmptyQcow2(kDiskBytes);
    if (!deleting) deleting = Begin(checkpoints_->Delete(remove));
    co_await Delay(milliseconds(10));
    co_return absl::OkStatus();
  };
  ASSERT_TRUE(Clone("a").ok());
  const absl::Status refused = Finish(deleting);
  EXPECT_EQ(rpc::ReasonOf(refused), "checkpoint_in_work");
  EXPECT_THAT(refused.message(), HasSubstr("web-2"));
  EXPECT_TRUE(Delete("a").ok());
}

TEST_F(CheckpointClonesTest, NoneIsCopiedWhileOneIsDeleted) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  host_.backend.script().Block("MergeOverlaySwitch");
  for (const auto& [file, below] : host_.overlays.files) {
    host_.backend.script().backing_files[file] = below;
  }
  v1::DeleteCheckpointRequest remove;
  remove.set_vm("web");
  remove.set_name("b");
  auto deleting = Begin(checkpoints_->Delete(remove));
  Await(host_.backend.script().WaitBlocked("MergeOverlaySwitch"));
  EXPECT_EQ(rpc::ReasonOf(Clone("a").status()), "checkpoint_in_work");
  host_.backend.script().Release("MergeOverlaySwitch");
  EXPECT_TRUE(Finish(deleting).ok());
  EXPECT_TRUE(Clone("a").ok());
}

TEST_F(CheckpointClonesTest, ItTellsHowFarItIsAndCanBeCancelled) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  const std::map<std::string, std::string> before = host_.overlays.files;
  JobRegistry jobs(io_.get_executor(), host_.store, host_.events);
  CheckpointsOptions options;
  options.folder = folder_.path() + "/state/checkpoints";
  options.state_folder = folder_.path() + "/state";
  options.jobs = &jobs;
  Checkpoints checkpoints(*host_.inventory, nullptr, *saves_, digests_, options);
  host_.overlays.before_copy = [](const std::string&) -> Task<absl::Status> {
    co_await Delay(milliseconds(3'600'000));
    co_return absl::OkStatus();
  };
  auto making = Begin(checkpoints.RestoreAs(CloneOf("a")));
  Until([&] { return !jobs.ListJobs().empty() && jobs.ListJobs().front().progress().total() > 0; });
  const v1::Job job = jobs.ListJobs().front();
  EXPECT_EQ(job.kind(), v1::JOB_KIND_CHECKPOINT);
  EXPECT_EQ(job.what(), "make web-2 of a");
  EXPECT_GT(job.progress().total(), 2 * kDiskBytes);
  EXPECT_TRUE(job.cancellable());
  ASSERT_TRUE(Await(jobs.CancelJob(job.id())).ok());
  EXPECT_EQ(Finish(making).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(host_.overlays.files, before);
  ExpectNothingLeft();
  Await(jobs.Close());
}

TEST_F(CheckpointClonesTest, OfTwoWithOneNameOneIsMade) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  Pending<absl::StatusOr<v1::Vm>> other;
  host_.overlays.before_copy = [this, &other](const std::string& to) -> Task<absl::Status> {
    std::ofstream(to) << EmptyQcow2(kDiskBytes);
    if (!other) other = Begin(checkpoints_->RestoreAs(CloneOf("a")));
    co_await Delay(milliseconds(10));
    co_return absl::OkStatus();
  };
  EXPECT_TRUE(Clone("a").ok());
  EXPECT_EQ(Finish(other).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CheckpointClonesTest, ADaemonThatDiesLeavesTheWholeVmOrNothing) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  const std::map<std::string, std::string> before = host_.overlays.files;
  for (const std::string point : {"CLONE.reserved", "CLONE.copied", "CLONE.memory"}) {
    // It dies there: nothing of it goes on.
    host_.at_point = [point](const std::string& now) {
      if (now == point) throw std::runtime_error("the daemon dies");
    };
    EXPECT_ANY_THROW((void)Clone("a")) << point;
    host_.at_point = [](const std::string&) {};
    Restart();
    EXPECT_EQ(host_.overlays.files, before) << point;
    ExpectNothingLeft();
  }
  host_.at_point = [](const std::string& now) {
    if (now == "CLONE.added") throw std::runtime_error("the daemon dies");
  };
  EXPECT_ANY_THROW((void)Clone("a"));
  host_.at_point = [](const std::string&) {};
  Restart();
  auto clone = host_.inventory->Find("web-2");
  ASSERT_TRUE(clone.ok());
  EXPECT_TRUE(host_.overlays.files.contains(File("root.web-2.qcow2")));
  EXPECT_TRUE(Start(*clone).ok());
}

// Whoever owns the folder may put another file under a name meanwhile.
TEST_F(CheckpointClonesTest, AnotherFileUnderACopysNameStays) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  const std::string copy = File("root.web-2.qcow2");
  absl::Status ends = absl::ResourceExhaustedError("no room");
  host_.overlays.before_copy = [this, copy, &ends](const std::string& to) -> Task<absl::Status> {
    std::ofstream(to) << EmptyQcow2(kDiskBytes);
    host_.overlays.inodes[copy] = 1000;
    co_return ends;
  };
  EXPECT_EQ(Clone("a").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(host_.overlays.files.contains(copy));
  EXPECT_FALSE(host_.overlays.files.contains(File("data.web-2.qcow2")));
  // Nor does a VM get it.
  ends = absl::OkStatus();
  v1::RestoreCheckpointAsRequest again = CloneOf("a");
  host_.overlays.files.erase(copy);
  EXPECT_EQ(Clone(again).status().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(host_.inventory->Find("web-2").ok());
  EXPECT_TRUE(host_.overlays.files.contains(copy));
}

TEST_F(CheckpointClonesTest, WhatCannotBeRemovedIsAtTheNextStart) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.overlays.before_copy = [this](const std::string&) -> Task<absl::Status> {
    host_.overlays.remove_fails = absl::UnavailableError("not now");
    co_return absl::ResourceExhaustedError("no room");
  };
  EXPECT_FALSE(Clone("a").ok());
  EXPECT_TRUE(host_.overlays.files.contains(File("root.web-2.qcow2")));
  host_.overlays.remove_fails = absl::OkStatus();
  Restart();
  ExpectNothingLeft();
}

TEST_F(CheckpointClonesTest, ADiskThatIsWrittenToMeanwhileIsNotUsed) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  WhileCopying([this] { std::ofstream(File("root.qcow2"), std::ios::app) << "more"; });
  v1::RestoreCheckpointAsRequest disks = CloneOf("a");
  disks.set_disk_only(true);
  EXPECT_EQ(rpc::ReasonOf(Clone(disks).status()), "disks_changed");
  ExpectNothingLeft();
}

TEST_F(CheckpointClonesTest, MemoryWhoseDiskIsWrittenToMeanwhileIsNotUsed) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  WhileCopying([this] { std::ofstream(File("root.qcow2"), std::ios::app) << "more"; });
  EXPECT_THAT(Clone("a").status().message(), HasSubstr("was written to"));
  ExpectNothingLeft();
}

TEST_F(CheckpointClonesTest, WhatHasNoRoomIsNotBegun) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  bool begun = false;
  WhileCopying([&begun] { begun = true; });
  host_.overlays.measured[File("root.qcow2")] = 7000;
  host_.overlays.measured[File("data.qcow2")] = 500;
  host_.overlays.room.bytes = 7499;
  v1::RestoreCheckpointAsRequest disks = CloneOf("a");
  disks.set_disk_only(true);
  const absl::Status full = Clone(disks).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("7500 bytes, and 7499 are free"));
  EXPECT_FALSE(begun);
  ExpectNothingLeft();
  host_.overlays.room.bytes = 7500;
  // The memory takes room, too.
  EXPECT_EQ(Clone("a").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Clone(disks).ok());
}

TEST_F(CheckpointClonesTest, FoldersOfTheHostAreNotHandedOn) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::VmSpec spec = vm->spec();
  spec.add_shares()->set_host_path("/srv");
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  EXPECT_TRUE(PlanClone(vm->checkpoint_scene(), vm->spec(), request).ok());
  request.set_disk_only(true);
  const auto plan = PlanClone(vm->checkpoint_scene(), spec, request);
  EXPECT_EQ(rpc::ReasonOf(plan.status()), "vm_has_shares");
}

TEST_F(CheckpointClonesTest, NetworkCardsInMemoryAreNotHandedOn) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::VmSpec spec = vm->spec();
  spec.add_nics()->set_user(true);
  const absl::Status refused = PlanClone(vm->checkpoint_scene(), spec, CloneOf("a")).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(rpc::ReasonOf(refused), "vm_has_networks");
  EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("--disk-only"));
}

TEST_F(CheckpointClonesTest, WithoutMemoryItHasCardsOfItsOwn) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::RestoreCheckpointAsRequest request = CloneOf("a");
  request.set_disk_only(true);
  v1::VmSpec spec = vm->spec();
  v1::NicSpec* user = spec.add_nics();
  user->set_user(true);
  user->set_mac("02:fe:00:00:00:01");
  user->add_addresses("10.0.2.15/24");
  v1::NicSpec* leased = spec.add_nics();
  leased->set_bridge("lan");
  leased->set_mac("02:fe:00:00:00:02");
  leased->set_dhcp(true);
  auto plan = PlanClone(vm->checkpoint_scene(), spec, request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->spec.nics_size(), 2);
  for (const v1::NicSpec& nic : plan->spec.nics()) EXPECT_EQ(nic.mac(), "");
  EXPECT_EQ(plan->spec.nics(1).bridge(), "lan");
  // Of what two VMs cannot both have.
  leased->set_dhcp(false);
  leased->add_addresses("192.0.2.7/24");
  plan = PlanClone(vm->checkpoint_scene(), spec, request);
  EXPECT_EQ(rpc::ReasonOf(plan.status()), "vm_has_networks");
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("192.0.2.7/24"));
  leased->clear_addresses();
  leased->set_tap("tap7");
  plan = PlanClone(vm->checkpoint_scene(), spec, request);
  EXPECT_EQ(rpc::ReasonOf(plan.status()), "vm_has_networks");
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("tap7"));
}

}  // namespace
}  // namespace ferry::vm
