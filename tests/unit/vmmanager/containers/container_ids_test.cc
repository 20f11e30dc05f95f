// Containers that have another id on the host that they come to than their guest knows them by.
#include "tests/unit/vmmanager/containers/container_moves_fixture.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class ContainerIdsTest : public ContainerMovesTest {};

TEST_F(ContainerIdsTest, OneMayHaveAnotherIdHere) {
  const auto before = Run(Request("vm", "one"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  const std::string id = NewContainerId();
  ContainerArrivals arrivals(*containers_, incoming, records);
  const absl::Status bound = Await(arrivals.Bind(before->id(), "", id));
  ASSERT_TRUE(bound.ok()) << bound;
  ASSERT_TRUE(arrivals.CheckReady().ok());
  ASSERT_THAT(arrivals.ScratchToCome(), SizeIs(1));
  EXPECT_EQ(arrivals.ScratchToCome()[0].source_id, before->id());
  EXPECT_THAT(arrivals.ScratchToCome()[0].file, HasSubstr(id));
  ASSERT_TRUE(Await(arrivals.MakeScratch()).ok());
  ASSERT_TRUE(Await(arrivals.PinLayers()).ok());
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  ASSERT_THAT(store_->Pins(), SizeIs(1));
  EXPECT_EQ(store_->Pins()[0].owner, id);
  EXPECT_EQ(Rows(), 1u);
  const auto container = *containers_->Find(id, "");
  EXPECT_EQ(container->name(), "one");
  EXPECT_EQ(container->guest_id(), before->id());
  EXPECT_EQ(container->Describe(false).guest_id(), before->id());
  // Who has noted the id that it was made with finds it.
  EXPECT_EQ(*containers_->Find(before->id(), ""), container);
  EXPECT_EQ(container->Export().guest_id(), before->id());
}

TEST_F(ContainerIdsTest, WhoIsBoundKeepsItsId) {
  const auto one = Run(Shared("one"));
  const auto two = Run(Shared("two"));
  const auto records = Export();
  const auto incoming = GoAndCome(records);
  const std::string id = NewContainerId();
  ContainerArrivals arrivals(*containers_, incoming, records);
  for (const std::string& wrong : {std::string("web"), std::string(64, 'A')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Await(arrivals.Bind(one->id(), "", wrong)))) << wrong;
  }
  ASSERT_TRUE(Await(arrivals.Bind(one->id(), "", id)).ok());
  for (const std::string& again : {id, std::string()}) {
    EXPECT_TRUE(Await(arrivals.Bind(one->id(), "", again)).ok());
    EXPECT_EQ(arrivals.IdOf(one->id()), id);
  }
  EXPECT_TRUE(absl::IsAlreadyExists(Await(arrivals.Bind(one->id(), "", NewContainerId()))));
  EXPECT_TRUE(absl::IsAlreadyExists(Await(arrivals.Bind(two->id(), "", id))));
  // What failed has no claim on its id any more.
  const std::string left = NewContainerId();
  EXPECT_FALSE(Await(arrivals.Bind(two->id(), folder_.path() + "/none", left)).ok());
  // By that one whoever has noted it finds the other.
  EXPECT_TRUE(absl::IsAlreadyExists(Await(arrivals.Bind(two->id(), "", one->id()))));
  ASSERT_TRUE(Await(arrivals.Bind(two->id(), "", "")).ok());
  EXPECT_TRUE(containers_->Expect(left));
  EXPECT_THAT(store_->Pins(), SizeIs(2));
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  EXPECT_EQ((*containers_->Find(one->id(), ""))->name(), "one");
  EXPECT_EQ((*containers_->Find(two->id(), ""))->name(), "two");
}

TEST_F(ContainerIdsTest, NoneHasTheIdOfOneOfWhichACheckpointKeepsADisk) {
  Run(Shared("one"));
  const std::string kept = NewContainerId();
  state::v1::CheckpointRecord checkpoint;
  checkpoint.set_schema_version(kStateSchemaVersion);
  checkpoint.add_disks()->set_container_id(kept);
  const auto vm = *host_.inventory->Find("vm");
  vm->AddCheckpoint({vm->id(), "then", checkpoint.SerializeAsString()});
  EXPECT_FALSE(containers_->Expect(kept));
  EXPECT_TRUE(containers_->Expect(NewContainerId()));
}

TEST_F(ContainerIdsTest, ItsGuestKnowsItByTheIdThatItWasMadeWith) {
  const auto before = Run(Shared("one"));
  const std::string made_as = before->id();
  auto records = Export();
  records[0].set_guest_id(made_as);
  records[0].set_container_id(NewContainerId());
  const auto vm = BringBack(records[0]);
  Await(containers_->VmArrived(vm->id()));
  const auto container = *containers_->Find("one", "");
  EXPECT_EQ(container->id(), records[0].container_id());
  FakeContainerGuest& guest = Guest(vm->id());
  ASSERT_TRUE(Await(container->Pause()).ok());
  EXPECT_EQ(guest.containers.at(made_as).state, bridge::ContainerState::kPaused);
  ASSERT_TRUE(Await(container->Resume()).ok());
  EXPECT_TRUE(Await(container->Stats()).ok());
  auto request = Request("vm", "member");
  request.mutable_spec()->set_pod("one");
  EXPECT_EQ(Make(request)->record().sandbox_id(), made_as);
  request.mutable_spec()->set_name("third");
  request.mutable_spec()->set_pod("member");
  EXPECT_EQ(Make(request)->record().sandbox_id(), made_as);
  guest.Exit(made_as, {guest::ExitStatus::Kind::kCode, 3});
  Settle();
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
  for (const char* name : {"third", "member", "one"}) {
    const absl::Status removed = Await(containers_->Remove(*containers_->Find(name, ""), true));
    EXPECT_TRUE(removed.ok()) << name << ": " << removed;
  }
  EXPECT_TRUE(guest.empty());
  EXPECT_THAT(store_->Pins(), IsEmpty());
  EXPECT_THAT(containers_->List(), IsEmpty());
}

TEST_F(ContainerIdsTest, TheIdThatItWasMadeWithMayComeBack) {
  const auto before = Run(Shared("one"));
  auto records = Export();
  const auto incoming = GoAndCome(records);
  records[0].set_guest_id(before->id());
  records[0].set_container_id(NewContainerId());
  ContainerArrivals arrivals(*containers_, incoming, records);
  ASSERT_TRUE(Await(arrivals.Bind(records[0].container_id(), "", before->id())).ok());
  ASSERT_TRUE(Await(arrivals.Arrive(records)).ok());
  const auto container = *containers_->Find("one", "");
  EXPECT_EQ(container->id(), before->id());
  EXPECT_EQ(container->record().guest_id(), "");
}

}  // namespace
}  // namespace ferry::vm
