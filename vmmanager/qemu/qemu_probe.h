#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/qemu/qemu_process.h"
#include "vmmanager/qemu/qmp_client.h"

namespace ferry::vm {

// A QEMU without a machine, started only to be asked what it can do. Ends with the object.
class QemuProbe {
 public:
  // Returns when its monitor answers. An empty `accelerator` is QEMU's own choice.
  static Task<absl::StatusOr<std::unique_ptr<QemuProbe>>> Launch(std::string binary,
                                                                 std::string accelerator);
  ~QemuProbe() { process_->Kill(); }

  QmpClient& qmp() { return *qmp_; }
  // Returns when it has ended.
  Task<void> End();

 private:
  QemuProbe(std::unique_ptr<QemuProcess> process, std::unique_ptr<QmpClient> qmp)
      : process_(std::move(process)), qmp_(std::move(qmp)) {}
  std::unique_ptr<QemuProcess> process_;
  std::unique_ptr<QmpClient> qmp_;
};

}  // namespace ferry::vm
