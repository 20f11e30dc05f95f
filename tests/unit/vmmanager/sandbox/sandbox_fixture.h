#pragma once

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/bridge/task_test.h"
#include "tests/unit/vmmanager/next_step.h"
#include "vmmanager/sandbox/fake_host.h"

namespace ferry::vm {

using ::testing::HasSubstr;

struct RecordingObserver final : MoveObserver {
  void OnNotice(const MigrationNotice& notice) override { notices.push_back(notice); }
  void OnEnded() override { ++ends; }
  std::vector<MigrationNotice> notices;
  int ends = 0;
};

// One host with fakes below it.
class SandboxTest : public TaskTest {
 protected:
  void TearDown() override {
    Await(host_.Stop());
    Settle();
  }

  std::shared_ptr<UtilityVm> Create(const std::string& name) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name(name);
    return *Await(host_.inventory->Create(request));
  }

  std::shared_ptr<UtilityVm> Boot(const std::string& name = "web") {
    auto vm = Await(host_.Boot(name));
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *vm;
  }

  // The daemon is started again; the guest dials the new one.
  void RestartDaemon(std::map<std::string, AdoptionClaim> claims = {}) {
    absl::Status loaded = Await(host_.Restart(std::move(claims)));
    EXPECT_TRUE(loaded.ok()) << loaded;
    for (const auto& vm : host_.inventory->List()) {
      if (vm->system() != nullptr) guests_.Connect(*host_.System(*vm));
    }
    Settle();
  }

  std::vector<std::string> EventTypes() {
    Settle();
    std::vector<std::string> types;
    const auto events = Await(host_.store.ReadEvents(0, 1000));
    for (const EventRow& event : *events) types.push_back(event.type);
    return types;
  }

  VmRow Row(const std::string& id) {
    const auto rows = Await(host_.store.ListVms());
    for (const VmRow& row : *rows) {
      if (row.id == id) return row;
    }
    return {};
  }

  TestFolder folder_;
  FakeGuests guests_{io_.get_executor()};
  FakeHost host_{io_.get_executor(), "host-a:1", folder_.path(), guests_};
};

}  // namespace ferry::vm
