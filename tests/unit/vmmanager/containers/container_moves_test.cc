#include "vmmanager/containers/container_moves.h"

#include <limits>

#include "tests/unit/vmmanager/containers/container_moves_fixture.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

TEST_F(ContainerMovesTest, OneWhoseScratchDiskIsThisHostsOwnStays) {
  Run(Request("vm", "one"));
  const absl::Status refused = exports_.CheckMovable(vm_->id(), v1::COPY_STORAGE_NONE);
  EXPECT_EQ(rpc::ReasonOf(refused), "scratch_not_shared");
  EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("--scratch-dir"));
  EXPECT_EQ(Await(exports_.Begin(vm_->id(), v1::COPY_STORAGE_NONE)).status(), refused);
}

TEST_F(ContainerMovesTest, AScratchDiskOfThisHostsOwnIsSent) {
  const auto before = Run(Request("vm", "one"));
  auto records = Export();
  EXPECT_EQ(records[0].scratch_bytes(), kDefaultScratchDisk);
  const auto described = Await(exports_.Describe(vm_->id(), kAsNeeded));
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->at(0).scratch_bytes(), kDefaultScratchDisk);
  EXPECT_GT(records[0].scratch_used_bytes(), 0u);
  const std::string file = records[0].scratch_file();
  const std::string written = ReadFile(file);
  const auto incoming = GoAndCome(records);
  // Nobody here needs it any more; a host with a path like that is no host that has it.
  EXPECT_FALSE(std::filesystem::exists(file));
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  const auto coming = arrivals.ScratchToCome();
  ASSERT_THAT(coming, SizeIs(1));
  EXPECT_EQ(coming[0].file, file);
  EXPECT_EQ(coming[0].place.lun, absl::StrCat(records[0].scratch_disk().lun()));
  EXPECT_EQ(PathAt(*incoming, records[0].scratch_disk().lun()), file);
  ASSERT_TRUE(Await(arrivals.MakeScratch()).ok());
  EXPECT_EQ(ReadFile(file), written);
  // What is there may be a checkpoint's.
  EXPECT_FALSE(Await(arrivals.MakeScratch()).ok());
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  EXPECT_EQ((*containers_->Find("one", ""))->record().scratch_file(), file);
}

// Two daemons may see each other's folders. What the source removes when its container has left
// must not be what the destination uses.
TEST_F(ContainerMovesTest, WhatIsItsHostsOwnIsNeverTakenForShared) {
  const auto before = Run(Request("vm", "one"));
  auto records = Export();
  EXPECT_THAT(records[0].scratch_proof(), IsEmpty());
  EXPECT_TRUE(absl::IsFailedPrecondition(
      Await(scratch_.CheckProof(records[0].scratch_file(), records[0].scratch_proof()))));
  records[0].clear_scratch_bytes();  // as an older source, or none, would send it
  const std::string file = records[0].scratch_file();
  const std::string written = ReadFile(file);
  const auto incoming = GoAndCome(records);
  WriteFile(file, written);
  ContainerArrivals arrivals(*containers_, incoming, records);
  EXPECT_EQ(rpc::ReasonOf(Await(arrivals.Bind(before->id(), file))), "scratch_not_shared");
}

TEST_F(ContainerMovesTest, WhatIsNotSentIsNotAwaited) {
  const auto before = Run(Request("vm", "one"));
  auto records = Export();
  records[0].clear_scratch_bytes();
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  EXPECT_EQ(rpc::ReasonOf(Await(arrivals.Bind(before->id(), ""))), "scratch_not_shared");
  EXPECT_THAT(arrivals.ScratchToCome(), IsEmpty());
}

TEST_F(ContainerMovesTest, AScratchDiskThatDidNotComeGoes) {
  const auto before = Run(Request("vm", "one"));
  auto records = Export();
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  ASSERT_TRUE(Await(arrivals.MakeScratch()).ok());
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
  Await(arrivals.Discard());
  EXPECT_FALSE(std::filesystem::exists(records[0].scratch_file()));
}

// Numbers that another host says are only that.
TEST_F(ContainerMovesTest, AScratchDiskHasASizeThatThereIs) {
  const auto before = Run(Request("vm", "one"));
  auto records = Export();
  records[0].set_scratch_bytes(std::numeric_limits<uint64_t>::max());
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  EXPECT_EQ(Await(arrivals.Bind(before->id(), "")).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ContainerMovesTest, OneThatBothHostsSeeIsSentIfThatIsWanted) {
  const auto before = Run(Shared("one"));
  for (const auto storage : {kAsNeeded, v1::COPY_STORAGE_ALL}) {
    const auto described = Await(exports_.Describe(vm_->id(), storage));
    ASSERT_TRUE(described.ok()) << described.status();
    EXPECT_EQ(described->at(0).scratch_bytes() > 0, storage == v1::COPY_STORAGE_ALL);
  }
  auto records = *Await(exports_.Begin(vm_->id(), v1::COPY_STORAGE_ALL));
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  ASSERT_THAT(arrivals.ScratchToCome(), SizeIs(1));
  EXPECT_NE(arrivals.ScratchToCome()[0].file, records[0].scratch_file());
  Await(arrivals.Discard());
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
}

TEST_F(ContainerMovesTest, ThePlanSaysWhatItConsistsOfAndLeavesAProof) {
  const auto container = Run(Shared("one"));
  const auto records = Export();
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_EQ(records[0].container_id(), container->id());
  ASSERT_EQ(records[0].layers_size(), 2);
  EXPECT_EQ(records[0].layers(0).bytes(), std::string("base").size());
  EXPECT_THAT(records[0].scratch_proof(), SizeIs(32));
  const std::string& word = records[0].scratch_proof();
  const std::string file = absl::StrCat(records[0].scratch_file(), ".", word, ".proof");
  EXPECT_EQ(ReadFile(file), word);
  // Another migration, from the host where it is then, has its own.
  const std::string next = *Await(scratch_.Prove(records[0].scratch_file()));
  Await(exports_.End(vm_->id()));
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_TRUE(Await(scratch_.CheckProof(records[0].scratch_file(), next)).ok());
  Await(scratch_.RemoveProof(records[0].scratch_file(), next));
  EXPECT_THAT(FilesIn(shared_), UnorderedElementsAre(container->id() + ".qcow2"));
}

TEST_F(ContainerMovesTest, WhatLeavesKeepsItsScratchDiskAndNothingElseHere) {
  Run(Shared("one"));
  const auto records = Export();
  GoAndCome(records);
  EXPECT_EQ(Rows(), 0u);
  EXPECT_THAT(containers_->List(), IsEmpty());
  EXPECT_THAT(store_->Pins(), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
}

TEST_F(ContainerMovesTest, AStartThatGoesAlongIsToldWhere) {
  const auto container = Make(Shared("one"));
  FakeContainerGuest& guest = Guest(vm_->id());
  guest.blocks_at = guest.fails_at.emplace_back("start");
  auto started = Begin(container->Start());
  Await(guest.blocked.Wait());
  ASSERT_TRUE(vm_->OpenMigration("session", "host-b:1").ok());
  vm_->MarkInDoubt();
  ASSERT_TRUE(Await(vm_->Relinquish()).ok());
  guest.go_on.Set();
  EXPECT_EQ(rpc::MovedTo(Finish(started)), "host-b:1") << Finish(started);
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_CREATED);
}

TEST_F(ContainerMovesTest, WhatComesIsBoundToWhereItIsHere) {
  const auto before = Run(Shared("one"));
  auto records = Export();
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  EXPECT_EQ(rpc::ReasonOf(arrivals.CheckReady()), "containers_unbound");
  EXPECT_TRUE(absl::IsNotFound(Await(arrivals.Bind(std::string(64, '0'), ""))));
  for (int twice = 0; twice < 2; ++twice) {
    const absl::Status bound = Await(arrivals.Bind(before->id(), ""));
    ASSERT_TRUE(bound.ok()) << bound;
  }
  EXPECT_TRUE(arrivals.CheckReady().ok());
  EXPECT_EQ(PathAt(*incoming, records[0].scratch_disk().lun()), records[0].scratch_file());
  EXPECT_EQ(PathAt(*incoming, records[0].layers(0).disk().lun()), store_->PathOf(DigestOf("base")));
  records[0].set_stage(state::v1::CONTAINER_STAGE_PAUSED);
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  const auto container = containers_->Find("one", "");
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ((*container)->state(), v1::CONTAINER_STATE_PAUSED);
  EXPECT_EQ(Rows(), 1u);
  ASSERT_THAT(store_->Pins(), SizeIs(1));
}

TEST_F(ContainerMovesTest, AScratchDiskMayHaveAnotherPathHere) {
  const auto before = Run(Shared("one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  const std::string here = folder_.path() + "/here";
  std::filesystem::rename(shared_, here);
  const std::string name = std::filesystem::path(records[0].scratch_file()).filename();
  ContainerArrivals arrivals(*containers_, incoming, records);
  const absl::Status bound = Await(arrivals.Bind(before->id(), here + "/" + name));
  ASSERT_TRUE(bound.ok()) << bound;
  EXPECT_THAT(arrivals.ScratchToCome(), IsEmpty());
  EXPECT_EQ(PathAt(*incoming, records[0].scratch_disk().lun()), here + "/" + name);
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  EXPECT_EQ((*containers_->Find("one", ""))->record().scratch_file(), here + "/" + name);
}

TEST_F(ContainerMovesTest, ACopyOfTheScratchDiskIsRefused) {
  const auto before = Run(Shared("one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  const std::string copy = folder_.path() + "/copy.qcow2";
  WriteFile(copy, ReadFile(records[0].scratch_file()));
  ContainerArrivals arrivals(*containers_, incoming, records);
  EXPECT_EQ(rpc::ReasonOf(Await(arrivals.Bind(before->id(), copy))), "scratch_not_shared");
  // A proof of an earlier migration proves nothing.
  WriteFile(absl::StrCat(copy, ".", std::string(32, '0'), ".proof"), std::string(32, '0'));
  EXPECT_EQ(rpc::ReasonOf(Await(arrivals.Bind(before->id(), copy))), "scratch_not_shared");
  EXPECT_EQ(rpc::ReasonOf(Await(arrivals.Bind(before->id(), folder_.path() + "/none"))),
            "scratch_not_shared");
}

TEST_F(ContainerMovesTest, LayersThatAreNotHereAreMissed) {
  const auto before = Run(Shared("one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  // The other image has the lower one, too.
  const auto missing = arrivals.MissingLayers();
  ASSERT_THAT(missing, SizeIs(1));
  EXPECT_EQ(missing.begin()->first, DigestOf("app"));
  EXPECT_EQ(missing.begin()->second, 3u);
  EXPECT_EQ(rpc::ReasonOf(arrivals.CheckReady()), "layers_missing");
  const auto folder = NewFolder();
  WriteFile(folder->path() + "/layer", "app");
  ASSERT_TRUE(Await(store_->Adopt(before->id(), DigestOf("app"), "layer", folder)).ok());
  EXPECT_TRUE(arrivals.CheckReady().ok());
  ASSERT_TRUE(Await(arrivals.PinLayers()).ok());
  Await(arrivals.Discard());
  EXPECT_THAT(store_->Pins(), IsEmpty());
  EXPECT_FALSE(store_->Has(DigestOf("app")));
}

TEST_F(ContainerMovesTest, WhatIsRefusedAfterTheVoteIsForgotten) {
  const auto before = Run(Shared("one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  ASSERT_TRUE(Await(host_.inventory->Forget(vm_->id(), "")).ok());
  EXPECT_EQ(Rows(), 0u);
  EXPECT_THAT(containers_->List(), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
}

TEST_F(ContainerMovesTest, ARowThatCannotBeRemovedIsFoundAgain) {
  Run(Shared("one"));
  const auto records = Export();
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  Settle();
  host_.store.FailNext(absl::ResourceExhaustedError("full"));
  EXPECT_FALSE(Await(host_.inventory->Forget(vm_->id(), "elsewhere")).ok());
  // With its VM, so that nobody takes what it consists of for nobody's.
  EXPECT_EQ(Await(host_.store.ListVms())->size(), 1u);
  EXPECT_EQ(Rows(), 1u);
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
}

TEST_F(ContainerMovesTest, AContainerThatIsHereAlreadyDoesNotComeAgain) {
  const auto here = Run(Shared("one"));
  const auto records = Export();
  ContainerArrivals arrivals(*containers_, vm_, records);
  EXPECT_TRUE(absl::IsAlreadyExists(Await(arrivals.Bind(here->id(), ""))));
  EXPECT_THAT(store_->Pins(), SizeIs(1));
}

TEST_F(ContainerMovesTest, WhatDoesNotComeTakesNothingFromOthers) {
  const auto here = Run(Shared("one"));
  auto records = Export();
  {
    ContainerArrivals arrivals(*containers_, vm_, records);
    EXPECT_TRUE(absl::IsAlreadyExists(Await(arrivals.Bind(here->id(), ""))));
    Await(arrivals.Discard());
    EXPECT_THAT(store_->Pins(), SizeIs(1));
  }
  const auto incoming = GoAndCome(records);
  ContainerArrivals first(*containers_, incoming, records);
  ASSERT_TRUE(Await(first.Bind(here->id(), "")).ok());
  {
    ContainerArrivals second(*containers_, incoming, records);
    EXPECT_TRUE(absl::IsAlreadyExists(Await(second.Bind(here->id(), ""))));
    Await(second.Discard());
  }
  EXPECT_THAT(store_->Pins(), SizeIs(1));
  Await(first.Discard());
  EXPECT_THAT(store_->Pins(), IsEmpty());
}

// The address sanitizer would see it.
TEST_F(ContainerMovesTest, WhatWasToComeMayOutliveTheInventory) {
  const auto before = Run(Shared("one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  auto arrivals = std::make_unique<ContainerArrivals>(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals->Bind(before->id(), "")).ok());
  Await(containers_->Close());
  containers_.reset();
  arrivals.reset();
  Open();
}

TEST_F(ContainerMovesTest, WhatIsNotAsItWasPlannedDoesNotCome) {
  const auto before = Run(Shared("one"));
  auto records = Export();
  const auto incoming = GoAndCome(records);
  {
    auto named = records;
    StoredContainer stored = *FromRecord(named[0]);
    stored.spec.set_name("\x1b[2J");
    named[0] = ToRecord(stored);
    ContainerArrivals arrivals(*containers_, incoming, named);
    EXPECT_TRUE(absl::IsInvalidArgument(Await(arrivals.Bind(before->id(), ""))));
  }
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  StoredContainer stored = *FromRecord(records[0]);
  stored.spec.set_remove_when_stopped(true);
  EXPECT_TRUE(absl::IsInvalidArgument(Await(arrivals.Arrive({ToRecord(stored)}))));
  stored = *FromRecord(records[0]);
  stored.spec.mutable_limits()->set_pids(7);
  EXPECT_TRUE(Await(arrivals.Arrive({ToRecord(stored)})).ok());
}

TEST_F(ContainerMovesTest, AScratchDiskThatNamesAnotherFileIsRefused) {
  const auto before = Run(Shared("one"));
  const auto records = *Await(exports_.Begin(vm_->id(), v1::COPY_STORAGE_NONE));
  const auto incoming = GoAndCome(records);
  std::string bytes = ReadFile(records[0].scratch_file());
  bytes[15] = 1;
  std::filesystem::remove(records[0].scratch_file());
  WriteFile(records[0].scratch_file(), bytes);
  ContainerArrivals arrivals(*containers_, incoming, records);
  const absl::Status refused = Await(arrivals.Bind(before->id(), ""));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("names another file"));
}

TEST_F(ContainerMovesTest, OneThatIsTakenUpTwiceLeavesItsLayersOnce) {
  Run(Shared("one"));
  RestartDaemon();
  Await(containers_->VmArrived(vm_->id()));
  Settle();
  ASSERT_TRUE(Await(containers_->Remove(*containers_->Find("one", ""), true)).ok());
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerMovesTest, WhatIsAskedOfOneThatHasJustComeWaitsUntilItIsTakenUp) {
  Run(Shared("one"));
  const auto records = Export();
  FakeContainerGuest& guest = Guest(vm_->id());
  const auto vm = BringBack(records[0]);
  auto removing = Begin(containers_->Remove(*containers_->Find("one", ""), true));
  Settle();
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
  EXPECT_FALSE(guest.empty());
  Await(containers_->VmArrived(vm->id()));
  const absl::Status removed = Finish(removing);
  EXPECT_TRUE(removed.ok()) << removed;
  EXPECT_TRUE(guest.empty());
  EXPECT_FALSE(std::filesystem::exists(records[0].scratch_file()));
}

TEST_F(ContainerMovesTest, WhatIsAskedOfOneWhoseVmIsStillOnItsWayWaitsToo) {
  Run(Shared("one"));
  const auto records = Export();
  const auto vm = BringBack(records[0]);
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  const auto container = *containers_->Find("one", "");
  auto stopping = Begin(container->Stop(milliseconds(1000)));
  Settle();
  EXPECT_FALSE(stopping->has_value());
  vm->ReturnFromMigration(1);
  Await(containers_->VmArrived(vm->id()));
  const absl::Status stopped = Finish(stopping);
  EXPECT_TRUE(stopped.ok()) << stopped;
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
}

TEST_F(ContainerMovesTest, ADaemonThatStopsRemovesNothingThatIsNotTakenUp) {
  Run(Shared("one"));
  const auto records = Export();
  const auto vm = BringBack(records[0]);
  auto removing = Begin(containers_->Remove(*containers_->Find("one", ""), true));
  Settle();
  Await(containers_->Close());
  EXPECT_TRUE(absl::IsUnavailable(Finish(removing)));
  EXPECT_TRUE(std::filesystem::exists(records[0].scratch_file()));
  EXPECT_EQ(Rows(), 1u);
}

TEST_F(ContainerMovesTest, OneThatIsNotTakenUpBeforeItsVmEndsCanBeRemoved) {
  Run(Shared("one"));
  const auto records = Export();
  const auto vm = BringBack(records[0]);
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  Guest(vm->id()).running = false;
  EXPECT_TRUE(Await(containers_->Remove(*containers_->Find("one", ""), false)).ok());
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(ContainerMovesTest, OneThatIsJustKilledToBeRemovedKeepsItsVm) {
  const auto container = Run(Shared("one"));
  Guest(vm_->id()).containers.at(container->id()).init->immortal = true;
  auto removing = Begin(containers_->Remove(container, true));
  Settle();
  EXPECT_EQ(rpc::ReasonOf(exports_.CheckMovable(vm_->id(), kAsNeeded)), "container_changes");
  Exit(*container, 0);
  EXPECT_TRUE(Finish(removing).ok());
  EXPECT_TRUE(exports_.CheckMovable(vm_->id(), kAsNeeded).ok());
}

TEST_F(ContainerMovesTest, OutputOfAFormerBootMoves) {
  auto request = Shared("one");
  request.mutable_spec()->set_detached(true);
  const auto before = Run(request);
  Exit(*before, 0);
  const ContainerOutput& output = containers_->deps().output;
  state::v1::ContainerOutput text;
  text.set_start(10);
  text.set_bytes("long ago");
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(output.Write(before->id(), guest::Stream::kStdout, text).ok());
  const auto records = Export();
  EXPECT_EQ(records[0].stdout().bytes(), "long ago");
  EXPECT_FALSE(records[0].has_stderr());
  ASSERT_TRUE(Await(host_.inventory->Forget(vm_->id(), "elsewhere")).ok());
  EXPECT_TRUE(absl::IsNotFound(output.Read(before->id(), guest::Stream::kStdout, 0, 9).status()));
  VmRow row;
  row.id = vm_->id();
  row.name = "vm";
  const auto incoming = *host_.inventory->AddIncoming("session", row, vm_->spec(), vm_->document());
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(before->id(), "")).ok());
  EXPECT_EQ(output.Read(before->id(), guest::Stream::kStdout, 15, 9)->bytes, "ago");
  Await(arrivals.Discard());
  EXPECT_TRUE(absl::IsNotFound(output.Read(before->id(), guest::Stream::kStdout, 0, 9).status()));
}

TEST_F(ContainerMovesTest, AVmThatMovesIsGivenAndRelievedOfNoContainer) {
  const auto container = Run(Shared("one"));
  ASSERT_TRUE(vm_->OpenMigration("session", "elsewhere").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(containers_->Remove(container, true))));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(containers_->Create(Shared("two"))).status()));
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_RUNNING);
  vm_->ReturnFromMigration(vm_->epoch());
  EXPECT_TRUE(Await(containers_->Remove(container, true)).ok());
}

}  // namespace
}  // namespace ferry::vm
