#include "vmmanager/sandbox/vm_firmware.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "vmmanager/sandbox/firmware_store.h"

namespace ferry::vm {

Task<absl::StatusOr<std::string>> VmFirmware::Read() {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi) co_return std::string();
  co_return co_await ReadStore(&deps_.host_reads, uefi->store_path);
}

Task<absl::Status> VmFirmware::Make(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi) co_return absl::OkStatus();
  FirmwareSettings firmware = deps_.settings.firmware;
  co_return co_await MakeStore(&deps_.host_reads, std::move(firmware), uefi->store_path,
                               std::move(packed));
}

Task<absl::Status> VmFirmware::Put(std::string packed) {
  if (packed.empty()) co_return absl::OkStatus();
  co_return co_await Make(std::move(packed));
}

Task<absl::Status> VmFirmware::Ensure(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  std::error_code unknown;
  if (!uefi || std::filesystem::exists(uefi->store_path, unknown) || unknown) {
    co_return absl::OkStatus();
  }
  spdlog::warn("{} is lost, and made anew {}", uefi->store_path,
               packed.empty() ? "empty" : "with what it held when the VM was saved");
  co_return co_await Make(std::move(packed));
}

Task<void> VmFirmware::Rewrite(std::string packed) {
  const auto& uefi = document_.virtual_machine.chipset.uefi;
  if (!uefi || packed.empty()) co_return;
  const std::string path = uefi->store_path;  // the document may change meanwhile
  const absl::Status rewritten = co_await RewriteStore(&deps_.host_reads, path, std::move(packed));
  if (!rewritten.ok()) spdlog::error("{}: {}", path, rewritten.ToString());
}

Task<absl::Status> VmFirmware::PutExpected() {
  std::string packed = std::exchange(arriving_, {});
  co_return co_await Put(std::move(packed));
}

}  // namespace ferry::vm
