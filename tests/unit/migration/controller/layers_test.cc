// Layers of containers that the destination lacks, on their way to it.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "tests/unit/migration/controller/containers_fixture.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class LayersTest : public ContainersTest {
 protected:
  // Up to both sides knowing of the VM, and the destination of where its container's things are.
  void ImportAndBind(const std::string& id, const std::string& container, uint32_t expiry = 0) {
    ImportAndBind(ExportRequest(id, "web", expiry), container);
  }
  void ImportAndBind(const v1::PrepareAndExportSandboxRequest& request,
                     const std::string& container) {
    const std::string& id = request.session_id();
    auto plan = Await(a_.sessions->PrepareAndExport(request));
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_TRUE(Import(id, *plan, request.expiry()).ok());
    auto bound = Bind(id, container);
    ASSERT_TRUE(bound.ok()) << bound.status();
  }

  // Returns when some of the layers are on their way.
  auto BeginSlowly(v1::ReceiveLayersResponse& awaited) {
    FakeWire& wire = Divert(awaited);
    wire.pause = milliseconds(10);
    wire.tamper = [this](const std::string& bytes) { passed_ += bytes.size(); };
    auto sent = Begin(a_.sessions->SendLayers(SendRequest("s1", awaited)));
    Until([&] { return passed_ > 10 * FakeWire::kPiece; });
    return sent;
  }

  absl::StatusOr<v1::ReceiveLayersResponse> Receive(const std::string& id) {
    v1::ReceiveLayersRequest request;
    request.set_session_id(id);
    return Await(b_.sessions->ReceiveLayers(request));
  }

  static v1::SendLayersRequest SendRequest(const std::string& id,
                                           const v1::ReceiveLayersResponse& awaited) {
    v1::SendLayersRequest request;
    request.set_session_id(id);
    request.set_session_address(awaited.session_address());
    request.set_session_token(awaited.session_token());
    *request.mutable_layers() = awaited.layers();
    return request;
  }
  absl::Status Send(const std::string& id, const v1::ReceiveLayersResponse& awaited) {
    return Await(a_.sessions->SendLayers(SendRequest(id, awaited)));
  }

  // From now on what is awaited comes over a wire of the test's.
  FakeWire& Divert(v1::ReceiveLayersResponse& awaited) {
    FakeWire& wire = UseWire();
    awaited.set_session_address(wire.LeadTo(awaited.session_address()));
    return wire;
  }

  // Nobody needs anything at the destination, and nothing is there.
  void ExpectNoLayers() {
    const std::string images = folder_.path() + "/b/images";
    // What is under way there ends by itself.
    for (int times = 0; times < 5000; ++times) {
      if (vm::FilesIn(images + "/tmp").empty() && vm::FilesIn(images + "/layers").empty()) break;
      Await(Delay(milliseconds(1)));
    }
    EXPECT_THAT(vm::FilesIn(images + "/tmp"), IsEmpty());
    EXPECT_THAT(vm::FilesIn(images + "/layers"), IsEmpty());
    EXPECT_THAT(on_b_.images->Pins(), IsEmpty());
  }

  // Whether the destination has a whole layer in its hands and looks at its digest.
  bool IsBeingRead() const {
    for (const auto& folder :
         std::filesystem::directory_iterator(folder_.path() + "/b/images/tmp")) {
      std::error_code none;
      const auto file = std::filesystem::status(folder.path() / "layer", none);
      if (!none && file.permissions() == std::filesystem::perms::owner_read) return true;
    }
    return false;
  }

  // Sends a layer, and returns while what came is being read again, for its digest.
  Pending<absl::Status> BeginUntilItIsRead() {
    auto vm = Boot();
    // So much that it takes a while.
    const std::string container = RunContainer(vm, "one", {Noise(24 * 1024 * 1024)}, false);
    ImportAndBind("s1", container);
    auto awaited = Receive("s1");
    EXPECT_TRUE(awaited.ok()) << awaited.status();
    const auto expected = awaited.ok() ? *awaited : v1::ReceiveLayersResponse();
    auto sent = Begin(a_.sessions->SendLayers(SendRequest("s1", expected)));
    while (!IsBeingRead() && !sent->has_value()) Await(Delay(milliseconds(1)));
    return sent;
  }

  static std::string Noise(size_t size) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * i >> 7);
    return bytes;
  }

  size_t passed_ = 0;  // bytes over the wire, which outlives its test's body
};

TEST_F(LayersTest, WhatTheDestinationLacksComesFirst) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base", "app"}, false);
  Give(on_b_, "image", "base");
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_EQ(vm::ReadFile(on_b_.images->PathOf(vm::DigestOf("app"))), "app");
  // Nobody has them but the image and the container.
  Until([&] { return on_b_.images->Pins().size() == 2; });
  EXPECT_EQ(on_b_.images->Pins()[0].owner, container);
  EXPECT_THAT(on_b_.images->Pins()[0].layers, SizeIs(2));
  EXPECT_EQ(on_b_.images->Pins()[1].owner, "image");
}

TEST_F(LayersTest, ACopyThatTakesLongerThanTheExpiryIsNoReasonToGiveUp) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {Noise(150 * FakeWire::kPiece)}, false);
  ImportAndBind("s1", container, 1);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  Divert(*awaited).pause = milliseconds(10);
  const auto begun = std::chrono::steady_clock::now();
  const absl::Status sent = Send("s1", *awaited);
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_GT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(1));
  EXPECT_TRUE(Prepare(b_, "s1").ok());
}

TEST_F(LayersTest, WhatCameMeanwhileForAnotherIsNotAwaited) {
  auto vm = Boot();
  RunContainer(vm, "one", {"base"}, false);
  peer_->Block("ReceiveLayers");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("ReceiveLayers"));
  Give(on_b_, "image", "base");
  peer_->Release("ReceiveLayers");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(LayersTest, WhatCameForAnotherIsKeptForThisOneToo) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  ImportAndBind("s1", container);
  Give(on_b_, "image", "base");
  ASSERT_TRUE(Prepare(b_, "s1").ok());
  ASSERT_TRUE(Await(on_b_.images->Unpin("image")).ok());
  EXPECT_TRUE(on_b_.images->Has(vm::DigestOf("base")));
}

TEST_F(LayersTest, NothingIsKeptOfWhatIsTakenInWhileTheSessionIsCalledOff) {
  auto sent = BeginUntilItIsRead();
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  (void)Finish(sent);
  while (IsBeingRead()) Await(Delay(milliseconds(1)));
  ExpectNoLayers();
}

TEST_F(LayersTest, ADaemonThatStopsWaitsForTheLayersThatItTakesIn) {
  auto sent = BeginUntilItIsRead();
  Await(b_.sessions->Shutdown());
  EXPECT_FALSE(IsBeingRead());
  // Nobody holds it any more: the store may go.
  EXPECT_THAT(on_b_.images->Pins(), IsEmpty());
  (void)Finish(sent);
}

TEST_F(LayersTest, ADaemonThatStopsDoesNotWaitForLayersThatNobodySends) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  ImportAndBind("s1", container);
  ASSERT_TRUE(Receive("s1").ok());
  const auto begun = std::chrono::steady_clock::now();
  Await(b_.sessions->Shutdown());
  // It waits a minute for the source to connect.
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30));
}

TEST_F(LayersTest, NorDoesOneThatCannotWriteDownThatItGivesThemUp) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  ImportAndBind("s1", container);
  ASSERT_TRUE(Receive("s1").ok());
  b_.host.store.before_append = [](vm::JournalRecord) -> Task<absl::Status> {
    co_return absl::ResourceExhaustedError("the disk is full");
  };
  const auto begun = std::chrono::steady_clock::now();
  Await(b_.sessions->Shutdown());
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30));
  b_.host.store.before_append = nullptr;
}

TEST_F(LayersTest, WhatNoContainerOfTheVmHasIsNotSent) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  Give(on_a_, "image", "secret");
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  awaited->add_layers(vm::DigestOf("secret"));
  const absl::Status refused = Send("s1", *awaited);
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(vm::DigestOf("secret")));
}

TEST_F(LayersTest, TheyAreSentOnceAtATime) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  auto first = Begin(a_.sessions->SendLayers(SendRequest("s1", *awaited)));
  auto second = Begin(a_.sessions->SendLayers(SendRequest("s1", *awaited)));
  EXPECT_TRUE(Finish(first).ok()) << Finish(first);
  EXPECT_TRUE(absl::IsFailedPrecondition(Finish(second))) << Finish(second);
}

TEST_F(LayersTest, NothingMoreIsSentOfAVmThatStays) {
  auto vm = Boot();
  const std::string layer = Noise(150 * FakeWire::kPiece);
  const std::string container = RunContainer(vm, "one", {layer}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  auto sent = BeginSlowly(*awaited);
  ASSERT_TRUE(Resume(a_, "s1").ok());
  EXPECT_FALSE(Finish(sent).ok());
  EXPECT_LT(passed_, layer.size());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(LayersTest, TheyKeepToTheBandwidthThatAMigrationMayTake) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {Noise(1'000'000)}, false);
  v1::PrepareAndExportSandboxRequest request = ExportRequest("s1");
  request.mutable_options()->set_max_bandwidth(1'000'000);
  ImportAndBind(request, container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  const auto begun = std::chrono::steady_clock::now();
  const absl::Status sent = Send("s1", *awaited);
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_GT(std::chrono::steady_clock::now() - begun, milliseconds(500));
}

// QEMU's user has the other folders, and other VMs have the same user.
TEST_F(LayersTest, TheirSocketsAreTheDaemonsOwn) {
  auto vm = Boot();
  const bool root = ::geteuid() == 0;
  const std::pair<uid_t, gid_t> other{root ? 65534 : ::geteuid(), root ? 65534 : ::getegid()};
  for (MigrationHost* host : {&a_, &b_}) host->deps->vmm_owner = other;
  const std::string container = RunContainer(vm, "one", {Noise(150 * FakeWire::kPiece)}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  auto sent = BeginSlowly(*awaited);
  for (const MigrationHost* host : {&a_, &b_}) {
    const std::vector<std::string> folders = vm::FilesIn(host->runtime_dir);
    ASSERT_THAT(folders, SizeIs(1));
    EXPECT_TRUE(folders[0].ends_with("-l")) << folders[0];
    const std::string folder = host->runtime_dir + "/" + folders[0];
    EXPECT_THAT(vm::FilesIn(folder), ElementsAre("l"));
    struct stat found {};
    ASSERT_EQ(::stat(folder.c_str(), &found), 0);
    EXPECT_EQ(found.st_uid, ::geteuid());
    EXPECT_EQ(found.st_mode & 0777u, 0700u);
  }
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  EXPECT_FALSE(Finish(sent).ok());
  EXPECT_TRUE(Cancel(a_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(std::filesystem::is_empty(a_.runtime_dir));
  EXPECT_TRUE(std::filesystem::is_empty(b_.runtime_dir));
}

// As a caller does that died before it had read the answer, or had it sent.
TEST_F(LayersTest, WhoAsksAgainHasTheSameAnswer) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  ImportAndBind("s1", container);
  const auto first = Receive("s1");
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Receive("s1");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->SerializeAsString(), first->SerializeAsString());
  const absl::Status sent = Send("s1", *second);
  EXPECT_TRUE(sent.ok()) << sent;
  const auto third = Receive("s1");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_THAT(third->layers(), IsEmpty());
  EXPECT_TRUE(Prepare(b_, "s1").ok());
}

TEST_F(LayersTest, WhoAsksWhileTheyComeIsToldWhatIsLeft) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {Noise(50 * FakeWire::kPiece)}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  auto sent = BeginSlowly(*awaited);
  const auto again = Receive("s1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(again->layers(), IsEmpty());
  EXPECT_TRUE(Finish(sent).ok()) << Finish(sent);
  EXPECT_TRUE(Prepare(b_, "s1").ok());
}

TEST_F(LayersTest, WhoAsksWhileTheyComeIsToldWhenTheSessionEnds) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {Noise(150 * FakeWire::kPiece)}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  auto sent = BeginSlowly(*awaited);
  v1::ReceiveLayersRequest request;
  request.set_session_id("s1");
  auto again = Begin(b_.sessions->ReceiveLayers(request));
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Finish(again).status())) << Finish(again).status();
  EXPECT_FALSE(Finish(sent).ok());
  ExpectNoLayers();
}

TEST_F(LayersTest, AfterABrokenCopyTheRestCanBeAskedForAgain) {
  auto vm = Boot();
  const std::string large = Noise(100 * FakeWire::kPiece);
  const std::string container = RunContainer(vm, "one", {large, "small"}, false);
  ImportAndBind("s1", container);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  ASSERT_THAT(awaited->layers(), SizeIs(2));
  // The small one first, and then not all of the other.
  auto* layers = awaited->mutable_layers();
  if (layers->Get(0) != vm::DigestOf("small")) layers->SwapElements(0, 1);
  FakeWire& wire = Divert(*awaited);
  wire.tamper = [this](const std::string& bytes) { passed_ += bytes.size(); };
  auto sent = Begin(a_.sessions->SendLayers(SendRequest("s1", *awaited)));
  Until([&] { return passed_ > 50 * FakeWire::kPiece; });
  wire.Cut();
  EXPECT_FALSE(Finish(sent).ok());
  auto again = Receive("s1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(again->layers(), ElementsAre(vm::DigestOf(large)));
  const absl::Status rest = Send("s1", *again);
  EXPECT_TRUE(rest.ok()) << rest;
  EXPECT_TRUE(Prepare(b_, "s1").ok());
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  ExpectNoLayers();
}

}  // namespace
}  // namespace ferry::migration
