#include "tools/ferryctl/container_start.h"

#include <gmock/gmock.h>

#include "tests/unit/tools/ferryctl/container_commands_fixture.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The container's VM goes to another host while it is being started.
class ContainerStartTest : public ContainerCommandsTest {
 protected:
  ContainerStartTest() : other_(StartOther()) { MoveTo(other_); }

  void MoveTo(const std::string& host) {
    containers_.start_status =
        rpc::ErrorOfMove(absl::StatusCode::kFailedPrecondition, "VM one moved", host);
    process_.home = host;
  }
  void ExpectNothingRemoved() {
    EXPECT_THAT(containers_.removed, IsEmpty());
    EXPECT_THAT(other_containers_.removed, IsEmpty());
  }

  const std::string other_;
};

TEST_F(ContainerStartTest, RunGoesOnWhereItsVmWent) {
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"run", "--name", "web", "image"}), 3);
  EXPECT_EQ(printed_, "hello\n");
  EXPECT_EQ(said_, "");
  EXPECT_TRUE(process_.exit_taken);
  ExpectNothingRemoved();
}

// It was started in time, and its VM is gone before it can be attached to.
TEST_F(ContainerStartTest, WhatWasJustStartedIsAttachedWhereItsVmWent) {
  containers_.start_status = absl::OkStatus();
  process_.is_followed = true;
  EXPECT_EQ(Ferryctl({"run", "--name", "web", "image"}), 3);
  EXPECT_EQ(printed_, "hello\n");
  ExpectNothingRemoved();
  EXPECT_EQ(Ferryctl({"container", "attach", "web"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("the VM moved"));
}

// Whoever has read some of it follows it.
TEST_F(ContainerStartTest, LogsGoOnWhereItsVmWent) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  process_.is_followed = true;
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), kOk);
  EXPECT_EQ(printed_, "hello\n");
}

TEST_F(ContainerStartTest, RunWithRmRemovesItThere) {
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"run", "--rm", "--name", "web", "image"}), 3);
  EXPECT_THAT(containers_.removed, IsEmpty());
  EXPECT_THAT(other_containers_.removed, ElementsAre("web!"));
}

// Of which another VM has one by the id that ours was made with.
TEST_F(ContainerStartTest, NothingIsDoneToAnotherThatHasItsIdThere) {
  v1::Container& web = other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  v1::Container& other = other_containers_.Add("other", v1::CONTAINER_STATE_CREATED);
  web.set_guest_id(web.id());
  other.set_id(web.id());
  other.set_vm_id("vm-2");
  web.set_id("its-id-there");
  EXPECT_EQ(Ferryctl({"run", "--rm", "--name", "web", "image"}), 3);
  EXPECT_EQ(other.state(), v1::CONTAINER_STATE_CREATED);
  EXPECT_THAT(other_containers_.removed, ElementsAre("web!"));
}

TEST_F(ContainerStartTest, RunDetachedSaysWhereItIs) {
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"run", "-d", "--name", "web", "image"}), kOk);
  EXPECT_EQ(printed_, "id-of-web\n");
  EXPECT_THAT(said_, HasSubstr("moved to " + other_));
  EXPECT_EQ(other_containers_.containers["web"].state(), v1::CONTAINER_STATE_RUNNING);
}

TEST_F(ContainerStartTest, StartAttachedGoesOnWhereItsVmWent) {
  containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"container", "start", "-a", "web"}), 3);
  EXPECT_EQ(printed_, "hello\n");
}

TEST_F(ContainerStartTest, OneThatHasAnotherIdThereIsFoundByThatWhichItWasMadeWith) {
  v1::Container& here = containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  here.set_guest_id(here.id());
  here.set_id("its-id-here");
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"container", "start", "-a", "web"}), 3);
  EXPECT_EQ(printed_, "hello\n");
}

TEST_F(ContainerStartTest, OneThatHasStoppedMeanwhileStillHasItsOutput) {
  other_containers_.Add("web", v1::CONTAINER_STATE_STOPPED);
  other_containers_.start_status = absl::FailedPreconditionError("a container runs once");
  EXPECT_EQ(Ferryctl({"run", "--name", "web", "image"}), 3);
  EXPECT_EQ(printed_, "hello\n");
  ExpectNothingRemoved();
}

TEST_F(ContainerStartTest, OneThatCannotBeStartedIsTakenBackThere) {
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  other_containers_.start_status =
      rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "no such program", "no_program");
  EXPECT_EQ(Ferryctl({"run", "--name", "web", "image", "nonsense"}), kNoProgram);
  EXPECT_THAT(containers_.removed, IsEmpty());
  EXPECT_THAT(other_containers_.removed, ElementsAre("web!"));
}

TEST_F(ContainerStartTest, WhatCannotBeFollowedIsLeftAlone) {
  containers_.Add("old", v1::CONTAINER_STATE_CREATED);
  const std::string nobody = "unix:" + folder_.path() + "/none.sock";
  for (const std::string& host : {nobody, other_}) {
    MoveTo(host);
    EXPECT_EQ(Ferryctl({"run", "--name", "web", "image"}), kExecFailed);
    EXPECT_THAT(said_, HasSubstr("its VM moved to " + host));
    EXPECT_THAT(said_, HasSubstr("Next:     See what became of it: ferryctl --host " + host));
    EXPECT_EQ(Ferryctl({"container", "start", "-a", "old"}), kExecFailed);
    EXPECT_THAT(said_, HasSubstr("its VM moved to " + host));
  }
  ExpectNothingRemoved();
}

TEST_F(ContainerStartTest, HostsThatSendItToEachOtherAreGivenUp) {
  other_containers_.Add("web", v1::CONTAINER_STATE_CREATED);
  other_containers_.start_status =
      rpc::ErrorOfMove(absl::StatusCode::kNotFound, "VM one moved", daemon_->address());
  EXPECT_EQ(Ferryctl({"run", "--name", "web", "image"}), kExecFailed);
  ExpectNothingRemoved();
}

}  // namespace
}  // namespace ferry::ctl
