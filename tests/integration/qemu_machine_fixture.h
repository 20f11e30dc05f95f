#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "tests/integration/qemu_fixture.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

// Machines below the backend: what QEMU is asked can be seen, and done without our own checks.
class QemuMachineFixture : public QemuFixture {
 public:
  using QemuFixture::executor;

 protected:
  // One that runs. `migration`: what its QEMU is taken to be able to do.
  Task<absl::StatusOr<std::shared_ptr<QemuMachine>>> LaunchMachine(
      schema::ComputeSystem document, std::set<std::string> migration) {
    QemuBackendConfig config = Config();
    auto opened = co_await QemuBackend::Open(executor(), config);
    if (!opened.ok()) co_return opened.status();
    auto host = std::make_shared<QemuHost>(executor(), config);
    host->info = (*opened)->info();
    host->capabilities.migration = std::move(migration);
    auto machine = std::make_shared<QemuMachine>(host, kId, std::move(document),
                                                 std::make_unique<SerialGuestLink>(executor()));
    absl::Status status = co_await machine->Launch(false);
    if (status.ok()) pids_.push_back(machine->pid());
    if (status.ok()) status = co_await machine->RunGuest();
    if (!status.ok()) co_return status;
    co_return machine;
  }
};

}  // namespace ferry::vm
