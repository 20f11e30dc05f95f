#pragma once

#include <string>

#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {

// Migrations whose steps a caller drives, with proofs passed on by hand.
class DrivenTest : public ControllerTest {
 protected:
  static v1::PrepareAndExportSandboxRequest ExportRequest(const std::string& id,
                                                          const std::string& vm = "web",
                                                          uint32_t expiry = 0) {
    v1::PrepareAndExportSandboxRequest request;
    request.set_session_id(id);
    request.set_vm(vm);
    request.set_destination("host-b:1");
    request.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
    request.set_expiry(expiry);
    return request;
  }
  absl::StatusOr<std::string> Export(const std::string& id, const std::string& vm = "web",
                                     uint32_t expiry = 0) {
    return Await(a_.sessions->PrepareAndExport(ExportRequest(id, vm, expiry)));
  }

  static v1::ImportSandboxRequest ImportRequest(const std::string& id, const std::string& plan,
                                                uint32_t expiry = 0) {
    v1::ImportSandboxRequest request;
    request.set_session_id(id);
    request.set_config(plan);
    request.set_expiry(expiry);
    return request;
  }
  absl::Status Import(const std::string& id, const std::string& plan, uint32_t expiry = 0) {
    return Await(b_.sessions->Import(ImportRequest(id, plan, expiry)));
  }

  absl::StatusOr<v1::PrepareSandboxResponse> Prepare(MigrationHost& host, const std::string& id) {
    v1::PrepareSandboxRequest request;
    request.set_session_id(id);
    request.mutable_init_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
    return Await(host.sessions->Prepare(request));
  }

  absl::Status Transfer(MigrationHost& host, const std::string& id,
                        const v1::PrepareSandboxResponse& prepared = {}) {
    v1::TransferSandboxRequest request;
    request.set_session_id(id);
    request.set_session_address(prepared.session_address());
    request.set_session_token(prepared.session_token());
    return Await(Session(host, id)->Transfer(request));
  }

  std::shared_ptr<MigrationSession> Session(MigrationHost& host, const std::string& id) {
    return *host.sessions->Find(id);
  }

  absl::StatusOr<std::string> Stop(MigrationHost& host, const std::string& id,
                                   const std::string& proof = "") {
    return Await(Session(host, id)->Finalize(v1::FINALIZE_ACTION_STOP, proof));
  }
  absl::StatusOr<std::string> Resume(MigrationHost& host, const std::string& id,
                                     const std::string& proof = "") {
    return Await(Session(host, id)->Finalize(v1::FINALIZE_ACTION_RESUME, proof));
  }
  absl::Status Cancel(MigrationHost& host, const std::string& id) {
    return Await(Session(host, id)->Cancel("no more"));
  }
  absl::Status Cleanup(MigrationHost& host, const std::string& id) {
    return Await(host.sessions->Cleanup(id));
  }

  // Up to both sides being ready to transfer.
  v1::PrepareSandboxResponse PrepareBoth(const std::string& id, const std::string& vm = "web") {
    auto plan = Export(id, vm);
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(Import(id, *plan).ok());
    auto prepared = Prepare(b_, id);
    EXPECT_TRUE(prepared.ok()) << prepared.status();
    return *prepared;
  }

  // Hands the ends of a socket pair to both sides.
  void HandOver(const std::string& id) {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    int end = 0;
    for (MigrationHost* host : {&a_, &b_}) {
      const std::string path = folder_.path() + (host == &a_ ? "/a/handoff" : "/b/handoff");
      auto ticket = Await(HandOverSocket(path, UniqueFd(pair[end++]), milliseconds(10'000)));
      ASSERT_TRUE(ticket.ok()) << ticket.status();
      EXPECT_TRUE(Await(Session(*host, id)->AdoptSocket(*ticket)).ok());
    }
  }

  // Both sides transfer; does not wait for it.
  void StartTransfer(const std::string& id, const std::string& vm = "web") {
    const auto prepared = PrepareBoth(id, vm);
    EXPECT_TRUE(Transfer(b_, id).ok());
    EXPECT_TRUE(Transfer(a_, id, prepared).ok());
  }

  // Up to the destination's vote.
  void TransferBoth(const std::string& id, const std::string& vm = "web") {
    StartTransfer(id, vm);
    Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
    EXPECT_EQ(State(b_, id), v1::SESSION_STATE_TRANSFER_COMPLETED);
  }
};

}  // namespace ferry::migration
