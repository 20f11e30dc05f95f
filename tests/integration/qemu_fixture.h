#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "vmmanager/qemu/qemu_backend.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/serial_guest_link.h"

#define CO_EXPECT_OK(expr)                        \
  do {                                            \
    const absl::Status co_expected = (expr);      \
    EXPECT_TRUE(co_expected.ok()) << co_expected; \
    if (!co_expected.ok()) co_return;             \
  } while (false)

namespace ferry::vm {

// The events of one system as they come.
struct EventLog {
  explicit EventLog(Executor executor) : changed(std::move(executor)) {}

  const SystemEvent* Find(SystemEvent::Kind kind) const {
    for (const SystemEvent& event : seen) {
      if (event.kind == kind) return &event;
    }
    return nullptr;
  }
  const SystemEvent* Find(schema::MigrationEventName name) const {
    for (const SystemEvent& event : seen) {
      if (event.kind == SystemEvent::Kind::kMigration && event.migration.event == name) {
        return &event;
      }
    }
    return nullptr;
  }

  // Waits for an event of `what`; the test's deadline bounds it.
  template <typename What>
  Task<SystemEvent> Await(What what) {
    while (Find(what) == nullptr) {
      changed.Reset();
      co_await changed.Wait();
    }
    co_return *Find(what);
  }

  AsyncEvent changed;
  std::vector<SystemEvent> seen;
};

// Backends on real QEMU whose guest is the firmware alone: it looks for something to boot for ever.
class QemuFixture : public ::testing::Test {
 protected:
  static constexpr char kId[] = "11111111-2222-3333-4444-555555555555";

  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "ferry-qemu-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }

  void TearDown() override {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // Runs a test's coroutine to its end.
  void Run(Task<void> body) {
    bool done = false;
    auto run = [](Task<void> inner, bool* flag) -> Task<absl::Status> {
      co_await std::move(inner);
      *flag = true;
      co_return absl::OkStatus();
    };
    auto guard = [](Task<absl::Status> inner) -> Task<void> {
      const absl::Status status =
          co_await WithDeadline(std::chrono::minutes(4), "the test", std::move(inner));
      EXPECT_TRUE(status.ok()) << status;
    };
    Spawn(context_.get_executor(), guard(run(std::move(body), &done)));
    context_.run_for(std::chrono::minutes(5));
    EXPECT_TRUE(done) << "the test did not get to its end";
  }

  Executor executor() { return context_.get_executor(); }
  std::string MigrationPath() const { return folder_ + "/migration"; }

  QemuBackendConfig Config() {
    QemuBackendConfig config;
    config.state_dir = folder_ + "/state";
    config.allow_kvm = false;
    config.make_link = [](Executor executor, uint32_t) -> std::unique_ptr<GuestLink> {
      return std::make_unique<SerialGuestLink>(executor);
    };
    return config;
  }

  static schema::ComputeSystem Document() {
    schema::ComputeSystem document;
    document.virtual_machine.compute_topology.memory.size_in_mb = 256;
    document.virtual_machine.platform.layout = kLeanLayout;
    return document;
  }

  // A running system; its process is killed at the end of the test if it still runs.
  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> StartSystem(QemuBackend* backend) {
    const schema::ComputeSystem document = Document();
    const std::string id = kId;
    auto system = co_await backend->Create(id, document);
    if (!system.ok()) co_return system.status();
    const schema::StartOptions options;
    absl::Status started = co_await (*system)->Start(options, nullptr);
    if (!started.ok()) co_return started;
    co_await NotePid(system->get());
    co_return system;
  }

  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> StartDestination(
      QemuBackend* backend, schema::MigrationInitializeOptions migration) {
    const schema::ComputeSystem document = Document();
    const std::string id = kId;
    auto system = co_await backend->Create(id, document);
    if (!system.ok()) co_return system.status();
    schema::StartOptions options;
    options.destination_migration_options = std::move(migration);
    const MigrationEndpoint endpoint{MigrationPath()};
    absl::Status started = co_await (*system)->Start(options, &endpoint);
    if (!started.ok()) co_return started;
    co_await NotePid(system->get());
    co_return system;
  }

  Task<pid_t> NotePid(ComputeSystem* system) {
    const schema::PropertyQuery query;
    auto properties = co_await system->GetProperties(query);
    const pid_t pid = static_cast<pid_t>(properties->vmm_pid);
    if (pid > 0) pids_.push_back(pid);
    co_return pid;
  }

  static Task<schema::SystemState> StateOf(ComputeSystem* system) {
    const schema::PropertyQuery query;
    auto properties = co_await system->GetProperties(query);
    co_return properties->state;
  }

  // Collects a system's events; the system must have ended (Terminate) before it is destroyed.
  std::shared_ptr<EventLog> Watch(ComputeSystem* system) {
    auto log = std::make_shared<EventLog>(executor());
    auto collect = [](AsyncQueue<SystemEvent>* events,
                      std::shared_ptr<EventLog> into) -> Task<void> {
      while (std::optional<SystemEvent> event = co_await events->Pop()) {
        into->seen.push_back(*event);
        into->changed.Set();
      }
    };
    Spawn(executor(), collect(&system->events(), log));
    return log;
  }

  size_t FoldersLeft() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/state")) {
      count += entry.is_directory() ? 1 : 0;
    }
    return count;
  }

  asio::io_context context_;
  std::string folder_;
  std::vector<pid_t> pids_;
};

}  // namespace ferry::vm
