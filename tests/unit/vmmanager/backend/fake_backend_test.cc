#include "vmmanager/backend/fake_backend.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "vmmanager/backend/backend_conformance.h"

namespace ferry::vm {
namespace {

class FakeFixture final : public BackendFixture {
 public:
  explicit FakeFixture(Executor executor) : backend_a_(executor), backend_b_(executor) {
    char name[] = "/tmp/ferry-fake-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~FakeFixture() override { std::filesystem::remove_all(folder_); }

  Backend& source() override { return backend_a_; }
  Backend& destination() override { return backend_b_; }
  schema::ComputeSystem Document() override { return {}; }
  std::string Folder() override { return folder_; }
  Task<absl::StatusOr<uint64_t>> Progress(ComputeSystem& system) override {
    co_return dynamic_cast<FakeComputeSystem&>(system).counter();
  }
  Task<void> LetRun(ComputeSystem& system) override {
    dynamic_cast<FakeComputeSystem&>(system).Step(3);
    co_return;
  }
  void MakeQcow2(const std::string& path) override { std::ofstream(path) << "disk"; }
  void MakeOverlay(const std::string& path, const std::string& below, const std::string&) override {
    MakeQcow2(path);
    backend_a_.script().backing_files[path] = below;
  }
  void SnapshotDiskAlone(const std::string& path, const std::string& tag) override {
    backend_a_.script().snapshots[path].push_back({{tag, 0, 1}, 0});
  }

 private:
  FakeBackend backend_a_;
  FakeBackend backend_b_;
  std::string folder_;
};

const bool kRegistered = RegisterBackendConformance(
    "FakeBackendConformance",
    [](Executor executor) { return std::make_unique<FakeFixture>(executor); });

class FakeBackendTest : public testing::Test {
 protected:
  void Run(Task<void> task) {
    Spawn(io_.get_executor(), std::move(task));
    io_.run();
    EXPECT_TRUE(kRegistered);
  }
  asio::io_context io_;
  FakeBackend backend_{io_.get_executor()};
};

Task<void> FailsOnce(FakeBackend& backend) {
  const schema::ComputeSystem document;
  backend.script().FailNext("Create", absl::ResourceExhaustedError("no room"));
  auto made = co_await backend.Create("vm", document);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kResourceExhausted);
  made = co_await backend.Create("vm", document);
  EXPECT_TRUE(made.ok());
}
TEST_F(FakeBackendTest, AScriptedFailureHappensOnce) { Run(FailsOnce(backend_)); }

Task<void> PauseInto(ComputeSystem* system, bool* done) {
  EXPECT_TRUE((co_await system->Pause()).ok());
  *done = true;
}

Task<void> Blocks(FakeBackend& backend, Executor executor) {
  const schema::ComputeSystem document;
  auto made = co_await backend.Create("vm", document);
  const schema::StartOptions options;
  EXPECT_TRUE((co_await (*made)->Start(options, nullptr)).ok());
  backend.script().Block("Pause");
  bool done = false;
  Spawn(executor, PauseInto(made->get(), &done));
  co_await backend.script().WaitBlocked("Pause");
  EXPECT_FALSE(done);
  backend.script().Release("Pause");
  while ((*made)->events().size() < 2) co_await Delay(milliseconds(0));
  EXPECT_EQ(backend.Find("vm")->state(), schema::SystemState::kPaused);
}
TEST_F(FakeBackendTest, ABlockedVerbWaitsForItsRelease) {
  Run(Blocks(backend_, io_.get_executor()));
}

Task<void> ExitsAlone(FakeBackend& backend) {
  const schema::ComputeSystem document;
  auto made = co_await backend.Create("vm", document);
  backend.Find("vm")->Exit(SystemExit::Cause::kPanic, "oops");
  auto event = co_await (*made)->events().Pop();
  EXPECT_EQ(event->exit.cause, SystemExit::Cause::kPanic);
  EXPECT_EQ(event->exit.detail, "oops");
  EXPECT_FALSE((co_await (*made)->events().Pop()).has_value());
}
TEST_F(FakeBackendTest, ASpontaneousExitIsTold) { Run(ExitsAlone(backend_)); }

Task<void> LinkCarriesBytes(Executor executor) {
  FakeGuestLink link(executor);
  auto guest = link.MakeGuestEnd();
  EXPECT_EQ((co_await guest->Dial(5)).status().code(), absl::StatusCode::kUnavailable);
  auto listener = link.Listen(5);
  EXPECT_EQ(link.Listen(5).status().code(), absl::StatusCode::kAlreadyExists);
  auto dialled = co_await guest->Dial(5);
  auto accepted = co_await (*listener)->Accept();
  EXPECT_TRUE((co_await (*dialled)->Write("hi")).ok());
  char text[8];
  std::span<char> buffer(text);
  auto count = co_await (*accepted)->Read(buffer);
  EXPECT_EQ(std::string_view(text, *count), "hi");
  link.Reset();
  EXPECT_FALSE((co_await (*accepted)->Read(buffer)).ok());
  EXPECT_EQ(co_await guest->WaitForLink(1), 2u);
  EXPECT_TRUE((co_await guest->Dial(5)).ok());
}
TEST_F(FakeBackendTest, TheLinkCarriesBytesAndCanBeReset) {
  Run(LinkCarriesBytes(io_.get_executor()));
}

}  // namespace
}  // namespace ferry::vm
