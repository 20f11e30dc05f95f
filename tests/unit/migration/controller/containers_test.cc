// Containers that move with their VM: whose they are, whatever becomes of the migration.
#include "tests/unit/migration/controller/containers_fixture.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class ContainersMoveTest : public ContainersTest {};

TEST_F(ContainersMoveTest, TheyAreTheDestinationsAfterwards) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  Give(on_b_, "image", "base");
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  Wait(b_, b_.sessions->List("").front().session_id());
  EXPECT_THAT(on_a_.containers->List(), IsEmpty());
  ASSERT_THAT(on_b_.containers->List(), SizeIs(1));
  EXPECT_EQ(on_b_.containers->List()[0]->id(), container);
  EXPECT_EQ(Rows(a_), 0u);
  EXPECT_EQ(Rows(b_), 1u);
  EXPECT_TRUE(HasScratch(container));
  ExpectMoved(vm, 2);
}

// The copy that ends is not the one that runs, and its containers share their disks with that one.
TEST_F(ContainersMoveTest, AStaleCopyThatEndsRemovesNothingOfThem) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  const std::string id = MigrateAndLoseDone();
  ASSERT_THAT(on_b_.containers->List(), SizeIs(1));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
  EXPECT_TRUE(HasScratch(container));
  EXPECT_THAT(on_b_.containers->List(), IsEmpty());
  EXPECT_EQ(Rows(b_), 0u);
  ASSERT_THAT(on_a_.containers->List(), SizeIs(1));
  EXPECT_EQ(on_a_.containers->List()[0]->state(), v1::CONTAINER_STATE_RUNNING);
}

}  // namespace
}  // namespace ferry::migration
