#include <algorithm>

#include "tests/unit/vmmanager/containers/containers_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;
using ::testing::StartsWith;

class ContainerMakingTest : public ContainersTest {};

TEST_F(ContainerMakingTest, BringsLayersAndScratchAndMakesTheContainerOfThem) {
  const auto vm = Boot("vm");
  const auto container = Make(Request("vm", "one"));
  FakeContainerGuest& guest = Guest(vm->id());
  const std::string bundle = "/run/gcs/c/" + container->id();
  std::vector<std::string> verbs;
  for (const std::string& call : guest.calls) verbs.push_back(call.substr(0, call.find(' ')));
  EXPECT_THAT(verbs, ElementsAre("attach", "mount", "attach", "mount", "attach", "mount", "combine",
                                 "create", "persist"));
  // The image's last layer is the topmost.
  EXPECT_EQ(guest.mounts.at(bundle + "/rootfs"),
            "/run/gcs/l/0-1 /run/gcs/l/0-0 over " + bundle + "/scratch");
  const guest::NewContainer& made = guest.containers.at(container->id()).made_of;
  EXPECT_EQ(made.bundle_path, bundle);
  EXPECT_THAT(made.oci_specification, HasSubstr(bundle + "/rootfs"));
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_CREATED);
  const v1::Container described = container->Describe(true);
  EXPECT_EQ(described.vm_name(), "vm");
  EXPECT_EQ(described.layers_size(), 2);
  EXPECT_EQ(described.scratch_file(), scratch_folder() + "/" + container->id() + "/scratch.qcow2");
  EXPECT_TRUE(std::filesystem::exists(described.scratch_file()));
  EXPECT_EQ(described.image_id(), store_->Find("web")->id);
  EXPECT_EQ(store_->Pins().front().owner, container->id());
  EXPECT_THAT(EventTypes(), Contains("container.created"));
}

TEST_F(ContainerMakingTest, LayersAreSharedAndGoWithTheLastThatNeedsThem) {
  const auto vm = Boot("vm");
  const auto first = Make(Request("vm", "one"));
  auto request = Request("vm", "two");
  request.mutable_spec()->set_image("other");
  request.mutable_spec()->set_read_only(true);
  const auto second = Make(request);
  FakeContainerGuest& guest = Guest(vm->id());
  // Two layers each, of which they share one, and one scratch disk.
  EXPECT_EQ(guest.disks.size(), 4u);
  EXPECT_TRUE(second->Describe(true).scratch_file().empty());
  EXPECT_THAT(guest.mounts.at("/run/gcs/c/" + second->id() + "/rootfs"),
              testing::EndsWith("over "));
  ASSERT_TRUE(Await(containers_->Remove(first, false)).ok());
  EXPECT_EQ(guest.disks.size(), 2u);
  ASSERT_TRUE(Await(containers_->Remove(second, false)).ok());
  ExpectNothingLeft(vm->id());
}

TEST_F(ContainerMakingTest, WhateverFailsIsTakenBack) {
  const auto vm = Boot("vm");
  for (const char* step :
       {"attach", "mount /run/gcs/l/0-1", "mount /run/gcs/c/", "combine", "create"}) {
    Guest(vm->id()).fails_at = {step};
    const absl::Status failed = Await(containers_->Create(Request("vm", "one"))).status();
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal) << step;
    EXPECT_THAT(std::string(failed.message()), HasSubstr(absl::StrCat("cannot ", step)));
    ExpectNothingLeft(vm->id());
  }
  EXPECT_THAT(EventTypes(), Not(Contains(StartsWith("container."))));
}

TEST_F(ContainerMakingTest, WhatCannotBeTakenBackIsKeptInMind) {
  const auto vm = Boot("vm");
  FakeContainerGuest& guest = Guest(vm->id());
  for (const char* disk : {"mount /run/gcs/l/0-1", "mount /run/gcs/c/"}) {
    // Also when that is tried again.
    guest.fails_at = {disk, absl::StrCat("un", disk), absl::StrCat("un", disk)};
    EXPECT_FALSE(Await(containers_->Create(Request("vm", "one"))).ok());
    Settle();
    EXPECT_FALSE(guest.disks.empty());
    const auto left = *containers_->Find("one", "");
    ASSERT_TRUE(Await(containers_->Remove(left, false)).ok());
    ExpectNothingLeft(vm->id());
  }
}

TEST_F(ContainerMakingTest, ItIsTakenBackInTheOppositeOrder) {
  const auto vm = Boot("vm");
  FakeContainerGuest& guest = Guest(vm->id());
  guest.fails_at = {"create"};
  EXPECT_FALSE(Await(containers_->Create(Request("vm", "one"))).ok());
  const auto created = std::find_if(guest.calls.begin(), guest.calls.end(), [](const auto& call) {
    return absl::StartsWith(call, "create");
  });
  std::vector<std::string> after;
  for (auto call = created + 1; call != guest.calls.end(); ++call) {
    after.push_back(call->substr(0, call->find(' ')));
  }
  EXPECT_THAT(after, ElementsAre("delete", "separate", "unmount", "eject", "detach", "unmount",
                                 "eject", "detach", "unmount", "eject", "detach"));
  EXPECT_EQ(guest.calls.back(), "detach 0");
}

TEST_F(ContainerMakingTest, ItIsCalledOffWhenNobodyWaitsAnyMore) {
  const auto vm = Boot("vm");
  FakeContainerGuest& guest = Guest(vm->id());
  guest.blocks_at = "combine";
  // Whoever waits is cancelled when it stands still there.
  auto wait = [](ContainerInventory* containers, FakeContainerGuest* guest,
                 v1::CreateContainerRequest request) -> Task<bool> {
    using asio::experimental::awaitable_operators::operator||;
    auto creating = containers->Create(std::move(request));
    auto first = co_await (std::move(creating) || guest->blocked.Wait());
    co_return first.index() == 1;
  };
  ASSERT_TRUE(Await(wait(containers_.get(), &guest, Request("vm", "one"))));
  EXPECT_FALSE(guest.empty());
  guest.go_on.Set();
  Until([&] { return guest.empty(); });
  Until([&] { return store_->Pins().empty(); });
  ExpectNothingLeft(vm->id());
}

TEST_F(ContainerMakingTest, TheSameRequestMakesOneContainer) {
  Boot("vm");
  auto request = Request("vm", "");
  request.set_request_id("r1");
  auto first = Begin(containers_->Create(request));
  const auto second = Make(request);
  EXPECT_EQ(*Finish(first), second);
  EXPECT_EQ(Make(request), second);
  EXPECT_EQ(containers_->List().size(), 1u);
  EXPECT_FALSE(second->name().empty());
  RestartDaemon();
  EXPECT_EQ(Make(request)->id(), second->id());
}

TEST_F(ContainerMakingTest, TheSameIdForAnotherRequestIsRefused) {
  Boot("vm");
  Boot("vm2");
  auto request = Request("vm", "");
  request.set_request_id("r1");
  auto first = Begin(containers_->Create(request));
  auto other = request;
  other.mutable_spec()->add_command("other");
  const auto refuse = [&](const v1::CreateContainerRequest& repeated) {
    const absl::Status refused = Await(containers_->Create(repeated)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << refused;
    EXPECT_THAT(NextStepOf(refused), HasSubstr("another request_id"));
  };
  refuse(other);
  const auto made = *Finish(first);
  refuse(other);
  other = request;
  other.set_vm("vm2");
  refuse(other);
  other.mutable_new_vm();
  refuse(other);
  RestartDaemon();
  other = request;
  other.mutable_spec()->add_environment("A=1");
  refuse(other);
  // Limits may have been changed since, and the VM named otherwise.
  v1::ContainerLimits limits;
  limits.set_pids(7);
  ASSERT_TRUE(Await((*containers_->Find(made->id(), ""))->Update(limits)).ok());
  request.set_vm(made->record().vm_id());
  EXPECT_EQ(Make(request)->id(), made->id());
}

TEST_F(ContainerMakingTest, APodWhoseFirstContainerHasEndedIsJoinedByNobody) {
  Boot("vm");
  const auto first = Run(Request("vm", "first"));
  auto member = Request("vm", "member");
  member.mutable_spec()->set_pod("first");
  Run(member);
  Exit(*first, 0);
  auto late = Request("vm", "late");
  late.mutable_spec()->set_pod("member");
  const absl::Status ended = Await(containers_->Create(late)).status();
  EXPECT_EQ(ended.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(ended.message()), HasSubstr("container first has stopped"));
  EXPECT_FALSE(NextStepOf(ended).empty());
  ASSERT_TRUE(Await(containers_->Remove(first, false)).ok());
  EXPECT_FALSE(NextStepOf(Await(containers_->Create(late)).status()).empty());
}

TEST_F(ContainerMakingTest, NamesAreAVmsOwn) {
  Boot("vm");
  Boot("vm2");
  Make(Request("vm", "one"));
  const absl::Status taken = Await(containers_->Create(Request("vm", "one"))).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(taken.message()), HasSubstr("VM vm has a container named one"));
  const auto other = Make(Request("vm2", "one"));
  EXPECT_EQ(containers_->Find("one", "").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*containers_->Find("one", "vm2"), other);
  EXPECT_EQ(*containers_->Find(other->id().substr(0, 12), ""), other);
}

TEST_F(ContainerMakingTest, WhatCannotBeIsRefusedBeforeAnythingIsMade) {
  const auto vm = Boot("vm");
  const auto refuse = [&](const v1::CreateContainerRequest& request, absl::StatusCode code,
                          const char* text) {
    const absl::Status refused = Await(containers_->Create(request)).status();
    EXPECT_EQ(refused.code(), code) << text;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(text));
  };
  auto request = Request("vm", "-x");
  refuse(request, absl::StatusCode::kInvalidArgument, "container's name");
  request = Request("none", "one");
  refuse(request, absl::StatusCode::kNotFound, "no VM \"none\"");
  request = Request("vm", "one");
  request.mutable_spec()->set_image("no-such-image");
  refuse(request, absl::StatusCode::kNotFound, "no-such-image");
  request = Request("vm", "one");
  request.mutable_spec()->mutable_scratch()->set_size_bytes(1);
  refuse(request, absl::StatusCode::kInvalidArgument, "scratch disk cannot have 1 bytes");
  request = Request("vm", "one");
  request.mutable_spec()->mutable_scratch()->set_folder("here");
  refuse(request, absl::StatusCode::kInvalidArgument, "use an absolute path");
  request = Request("vm", "one");
  request.mutable_spec()->mutable_limits()->set_pids(0);
  refuse(request, absl::StatusCode::kInvalidArgument, "limit of processes is 0");
  request = Request("vm", "one");
  request.clear_vm();
  refuse(request, absl::StatusCode::kInvalidArgument, "in which VM");
  request = Request("", "one");
  request.mutable_spec()->set_pod("x");
  refuse(request, absl::StatusCode::kInvalidArgument, "shares the VM of that pod");
  EXPECT_TRUE(Guest(vm->id()).calls.empty());
  EXPECT_EQ(host_.inventory->List().size(), 1u);
  ASSERT_TRUE(Await(vm->Pause()).ok());
  request = Request("vm", "one");
  refuse(request, absl::StatusCode::kFailedPrecondition, "it is PAUSED");
}

TEST_F(ContainerMakingTest, AScratchDiskCanLieInAFolderThatHostsShare) {
  const auto vm = Boot("vm");
  auto request = Request("vm", "one");
  const std::string shared = folder_.Make("shared");
  request.mutable_spec()->mutable_scratch()->set_folder(shared);
  const auto container = Make(request);
  EXPECT_THAT(FilesIn(shared), ElementsAre(container->id() + ".qcow2"));
  ASSERT_TRUE(Await(containers_->Remove(container, false)).ok());
  EXPECT_TRUE(FilesIn(shared).empty());
  request.mutable_spec()->mutable_scratch()->set_folder(shared + "/missing");
  EXPECT_FALSE(Await(containers_->Create(request)).ok());
  ExpectNothingLeft(vm->id());
}

TEST_F(ContainerMakingTest, AVmThatIsMadeForAContainerGoesWithIt) {
  const auto container = Run(Request("", "one"));
  EXPECT_TRUE(container->Describe(false).owns_vm());
  const auto vm = *host_.inventory->Find("one");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  const absl::Status runs = Await(containers_->Remove(container, false));
  EXPECT_EQ(runs.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(NextStepOf(runs), HasSubstr("rm --force one"));
  // Others would go with it, too.
  const absl::Status others = Await(containers_->Create(Request("one", "two"))).status();
  EXPECT_EQ(others.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(others.message()), HasSubstr("was made for container one alone"));
  ASSERT_TRUE(Await(containers_->Remove(container, true)).ok());
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_EQ(Rows(), 0u);
  EXPECT_TRUE(store_->Pins().empty());
  EXPECT_TRUE(ScratchFolders().empty());
}

TEST_F(ContainerMakingTest, AVmThatCannotBeEndedStaysItsContainers) {
  host_.backend.script().FailNext("Start", absl::InternalError("no VMM"));
  host_.store.before_delete_vm = [](const std::string&) {
    return absl::ResourceExhaustedError("the disk is full");
  };
  EXPECT_FALSE(Await(containers_->Create(Request("", "one"))).ok());
  Settle();
  EXPECT_EQ(host_.inventory->List().size(), 1u);
  EXPECT_EQ(Rows(), 1u);
  host_.store.before_delete_vm = nullptr;
  RestartDaemon();
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(ContainerMakingTest, OfAContainerThatFailsNoVmIsLeft) {
  auto request = Request("", "one");
  host_.backend.script().FailNext("Start", absl::InternalError("no VMM"));
  EXPECT_EQ(Await(containers_->Create(request)).status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(host_.inventory->List().empty());
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_FALSE(Await(containers_->Create(request)).ok());
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_EQ(Rows(), 0u);
  EXPECT_TRUE(store_->Pins().empty());
}

TEST_F(ContainerMakingTest, PodsShareTheFirstOnesNamespaces) {
  const auto vm = Boot("vm");
  const auto sandbox = Run(Request("vm", "sandbox"));
  auto request = Request("vm", "member");
  request.mutable_spec()->set_pod("sandbox");
  const auto member = Make(request);
  EXPECT_THAT(Guest(vm->id()).containers.at(member->id()).made_of.oci_specification,
              HasSubstr(sandbox->id()));
  // A member's pod is the same one.
  request.mutable_spec()->set_name("third");
  request.mutable_spec()->set_pod("member");
  EXPECT_EQ(Make(request)->record().sandbox_id(), sandbox->id());
  Exit(*sandbox, 0);
  request.mutable_spec()->set_name("fourth");
  request.mutable_spec()->set_pod("sandbox");
  const absl::Status stopped = Await(containers_->Create(request)).status();
  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stopped.message()), HasSubstr("nobody can share its namespaces"));
}

}  // namespace
}  // namespace ferry::vm
