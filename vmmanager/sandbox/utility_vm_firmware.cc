// The part of UtilityVm that keeps what its firmware remembers. While it runs its VMM writes that
// to the store; a VMM that has taken a state writes all of that state's once the guest runs. So
// what is done here is for the VMs that do not get that far, and for those that boot.
#include <spdlog/spdlog.h>

#include <filesystem>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

Task<absl::StatusOr<std::string>> UtilityVm::ReadFirmwareStore() {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi) co_return std::string();
  co_return co_await ReadStore(&deps_.reads, uefi->store_path);
}

Task<absl::Status> UtilityVm::MakeFirmwareStore(std::string packed) {
  auto self = shared_from_this();
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi) co_return absl::OkStatus();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  FirmwareSettings firmware = deps_.settings.firmware;
  co_return co_await MakeStore(&deps_.reads, std::move(firmware), uefi->store_path,
                               std::move(packed));
}

Task<absl::Status> UtilityVm::PutFirmwareStore(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi || packed.empty()) co_return absl::OkStatus();
  FirmwareSettings firmware = deps_.settings.firmware;
  co_return co_await MakeStore(&deps_.reads, std::move(firmware), uefi->store_path,
                               std::move(packed));
}

Task<absl::Status> UtilityVm::EnsureFirmwareStore(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  std::error_code unknown;
  if (!uefi || std::filesystem::exists(uefi->store_path, unknown) || unknown) {
    co_return absl::OkStatus();
  }
  spdlog::warn("vm {}: {} is lost, and made anew {}", row_.name, uefi->store_path,
               packed.empty() ? "empty" : "with what it held when the VM was saved");
  FirmwareSettings firmware = deps_.settings.firmware;
  co_return co_await MakeStore(&deps_.reads, std::move(firmware), uefi->store_path,
                               std::move(packed));
}

Task<void> UtilityVm::RewriteFirmwareStore(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi || packed.empty()) co_return;
  const absl::Status rewritten =
      co_await RewriteStore(&deps_.reads, uefi->store_path, std::move(packed));
  if (!rewritten.ok()) spdlog::error("vm {}: {}", row_.name, rewritten.ToString());
}

}  // namespace ferry::vm
