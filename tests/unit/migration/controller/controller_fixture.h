#pragma once

#include <gmock/gmock.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "migration/controller/fake_peer_client.h"
#include "migration/controller/session_registry.h"
#include "tests/unit/bridge/task_test.h"
#include "tests/unit/migration/controller/fake_wire.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/fake_file_reads.h"
#include "vmmanager/sandbox/fake_host.h"

namespace ferry::migration {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A daemon below its edge.
struct MigrationHost {
  MigrationHost(Executor executor, const std::string& address, const std::string& folder,
                vm::FakeGuests& guests, PeerFactory make_peer)
      : host(executor, address, folder, guests), runtime_dir(folder + "/mig") {
    std::filesystem::create_directory(runtime_dir);
    listener = *SessionListener::Listen(executor, {});
    HandoffOptions options;
    options.path = folder + "/handoff";
    handoff = *SocketHandoff::Listen(executor, options);
    Open(std::move(make_peer));
  }

  void Open(PeerFactory make_peer) {
    deps = std::make_unique<ControllerDeps>(ControllerDeps{
        *host.inventory, digests, *listener, *handoff, std::move(make_peer), nullptr, runtime_dir});
    sessions = std::make_unique<SessionRegistry>(*deps);
  }

  vm::FakeHost host;
  std::string runtime_dir;
  vm::FakeFileReads reads;
  vm::ImageDigests digests{reads};
  std::unique_ptr<SessionListener> listener;
  std::unique_ptr<SocketHandoff> handoff;
  std::unique_ptr<ControllerDeps> deps;
  std::unique_ptr<SessionRegistry> sessions;
};

// Two hosts in one process: VMs start on a_ and go to b_.
class ControllerTest : public TaskTest {
 protected:
  // So that no step of a test is to hash images.
  void SetUp() override {
    for (MigrationHost* host : {&a_, &b_}) {
      for (const MigrationHost* from : {&a_, &b_}) {
        EXPECT_TRUE(Await(host->digests.Get(from->host.settings.kernel)).ok());
        EXPECT_TRUE(Await(host->digests.Get(from->host.settings.initrd)).ok());
      }
    }
  }

  void TearDown() override {
    for (MigrationHost* host : {&a_, &b_}) {
      host->host.backend.script().FailNext("none", absl::OkStatus());
      Await(host->sessions->Shutdown());
    }
    if (wire_ != nullptr) wire_->Cut();
    for (MigrationHost* host : {&a_, &b_}) {
      host->listener->Close();
      host->handoff->Close();
      Await(host->host.Stop());
    }
    Settle();
  }

  PeerFactory Peers() {
    return [this](const std::string& address) -> absl::StatusOr<std::shared_ptr<PeerClient>> {
      for (MigrationHost* host : {&a_, &b_}) {
        if (host->host.settings.advertised_address != address) continue;
        auto on_prepared = [this](v1::PrepareSandboxResponse& response) {
          if (wire_ != nullptr) {
            response.set_session_address(wire_->LeadTo(response.session_address()));
          }
        };
        return std::make_shared<FakePeerClient>(*host->sessions, peer_, on_prepared);
      }
      return absl::InvalidArgumentError("no such host: " + address);
    };
  }

  // From now on the session connection goes over a wire of the test's.
  FakeWire& UseWire() {
    wire_ = std::make_shared<FakeWire>(io_.get_executor());
    return *wire_;
  }

  std::shared_ptr<vm::UtilityVm> Boot(const std::string& name = "web") {
    auto vm = Await(a_.host.Boot(name));
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *vm;
  }

  static v1::MigrateRequest MigrateRequest(const std::string& vm = "web",
                                           const std::string& destination = "host-b:1") {
    v1::MigrateRequest request;
    request.set_vm(vm);
    request.set_destination(destination);
    return request;
  }

  // Starts the one-call migration and returns the session's id.
  std::string Migrate(v1::MigrateRequest request = MigrateRequest()) {
    auto session = Await(a_.sessions->Migrate(std::move(request)));
    EXPECT_TRUE(session.ok()) << session.status();
    return session.ok() ? session->session_id() : "";
  }

  v1::Session Wait(MigrationHost& host, const std::string& id) {
    Until([&] {
      auto session = host.sessions->Describe(id);
      return !session.ok() || session->done();
    });
    Settle();
    return Describe(host, id);
  }

  v1::Session Describe(MigrationHost& host, const std::string& id) {
    auto session = host.sessions->Describe(id);
    EXPECT_TRUE(session.ok()) << session.status();
    return session.ok() ? *session : v1::Session();
  }

  v1::SessionState State(MigrationHost& host, const std::string& id) {
    return Describe(host, id).state();
  }

  static std::vector<std::string> Kinds(MigrationHost& host, const std::string& id) {
    std::vector<std::string> kinds;
    for (const vm::JournalRecord& record : host.host.store.journal()) {
      if (record.session_id == id) kinds.push_back(record.kind);
    }
    return kinds;
  }

  // All after `last` that there are by now, of a session or of the record of one.
  std::vector<v1::NotificationsResponse> Notifications(MigrationHost& host, const std::string& id,
                                                       uint32_t last = 0) {
    std::vector<v1::NotificationsResponse> all;
    auto notifier = Await(host.sessions->Notifications(id));
    EXPECT_TRUE(notifier.ok()) << notifier.status();
    while (notifier.ok() && last < (*notifier)->last_id()) {
      auto next = Await((*notifier)->Next(last));
      EXPECT_TRUE(next.ok()) << next.status();
      if (!next.ok() || next->empty()) break;
      last = next->back().message_id();
      all.insert(all.end(), next->begin(), next->end());
    }
    return all;
  }

  static std::vector<v1::MigrationPhase> Phases(
      const std::vector<v1::NotificationsResponse>& notifications) {
    std::vector<v1::MigrationPhase> phases;
    for (const auto& message : notifications) {
      const v1::MigrationPhase phase = message.notification().phase();
      if (phases.empty() || phases.back() != phase) phases.push_back(phase);
    }
    return phases;
  }

  // The host's daemon dies, and the next one loads what it left. What the former one's tasks still
  // do ends with the test.
  void Reload(MigrationHost& host) {
    Settle();
    former_.push_back(std::move(host.sessions));
    host.sessions = std::make_unique<SessionRegistry>(*host.deps);
    ASSERT_TRUE(Await(host.sessions->Load(JournalTrust::kWhole)).ok());
  }

  // The same, and it goes on with that.
  void Restart(MigrationHost& host) {
    Settle();
    for (const auto& entry : std::filesystem::directory_iterator(host.runtime_dir)) {
      std::filesystem::remove_all(entry);
    }
    Reload(host);
    Await(host.sessions->Recover());
  }

  // The next record of that kind fails to be written.
  static void FailAppend(MigrationHost& host, const std::string& kind) {
    auto failed = std::make_shared<bool>(false);
    host.host.store.before_append = [kind, failed](vm::JournalRecord record) {
      return Fail(record.kind == kind && !std::exchange(*failed, *failed || record.kind == kind));
    };
  }
  static Task<absl::Status> Fail(bool fails) {
    if (fails) co_return absl::ResourceExhaustedError("the disk is full");
    co_return absl::OkStatus();
  }

  // Writing a record of that kind takes until `go_on`.
  static void HoldAppend(MigrationHost& host, const std::string& kind, AsyncEvent& go_on) {
    host.host.store.before_append = [kind, event = &go_on](vm::JournalRecord record) {
      return Hold(record.kind == kind ? event : nullptr);
    };
  }
  static Task<absl::Status> Hold(AsyncEvent* event) {
    if (event != nullptr) co_await event->Wait();
    co_return absl::OkStatus();
  }

  // The VM runs on the source as if nothing had been, and the destination has nothing of it.
  void ExpectRolledBack(const std::shared_ptr<vm::UtilityVm>& vm) {
    Settle();
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
    EXPECT_FALSE(vm->current_notice().has_value());
    ASSERT_NE(a_.host.System(*vm), nullptr);
    EXPECT_TRUE(a_.host.System(*vm)->Step());
    EXPECT_TRUE(Await(vm->UsableGuest()).ok());
    ExpectEmpty(b_);
    EXPECT_TRUE(std::filesystem::is_empty(a_.runtime_dir));
  }

  void ExpectEmpty(MigrationHost& host) {
    EXPECT_TRUE(host.host.inventory->List().empty());
    EXPECT_TRUE(Await(host.host.store.ListVms())->empty());
    EXPECT_TRUE(std::filesystem::is_empty(host.runtime_dir));
  }

  void ExpectMoved(const std::shared_ptr<vm::UtilityVm>& from, uint64_t epoch) {
    Settle();
    EXPECT_TRUE(a_.host.inventory->List().empty());
    EXPECT_EQ(from->system(), nullptr);
    auto there = b_.host.inventory->Find(from->id());
    ASSERT_TRUE(there.ok()) << there.status();
    EXPECT_EQ((*there)->epoch(), epoch);
    EXPECT_NE((*there)->system(), nullptr);
    EXPECT_TRUE(std::filesystem::is_empty(a_.runtime_dir));
    EXPECT_TRUE(std::filesystem::is_empty(b_.runtime_dir));
  }

  TestFolder folder_;
  vm::FakeGuests guests_{io_.get_executor()};
  std::shared_ptr<vm::FakeScript> peer_ = std::make_shared<vm::FakeScript>(io_.get_executor());
  std::shared_ptr<FakeWire> wire_;
  MigrationHost a_{io_.get_executor(), "host-a:1", folder_.Make("a"), guests_, Peers()};
  MigrationHost b_{io_.get_executor(), "host-b:1", folder_.Make("b"), guests_, Peers()};

 private:
  std::vector<std::unique_ptr<SessionRegistry>> former_;
};

}  // namespace ferry::migration
