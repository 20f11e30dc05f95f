#include "vmmanager/saving/memory_disks.h"

#include "vmmanager/sandbox/fingerprint.h"

namespace ferry::vm {

DeviceNames ForEachDisk(schema::ComputeSystem* document,
                        const std::function<void(schema::Attachment&)>& see) {
  DeviceNames names;
  for (auto& [controller, scsi] : document->virtual_machine.devices.scsi) {
    for (auto& [lun, disk] : scsi.attachments) {
      const std::string before = DiskLine(controller, lun, disk);
      see(disk);
      names[before] = DiskLine(controller, lun, disk);
    }
  }
  return names;
}

void RenameDevices(const DeviceNames& names, state::v1::Fingerprint* fingerprint) {
  for (std::string& device : *fingerprint->mutable_devices()) {
    if (const auto name = names.find(device); name != names.end()) device = name->second;
  }
}

DeviceNames NameAsNow(const MergedDisk& disk, schema::ComputeSystem* document,
                      std::vector<state::v1::DiskGeneration>* generations) {
  const DeviceNames names = ForEachDisk(document, [&disk](schema::Attachment& attachment) {
    if (attachment.path != disk.then || attachment.read_only) return;
    attachment.path = disk.now.path();
    attachment.format = disk.format;
  });
  for (state::v1::DiskGeneration& generation : *generations) {
    if (generation.path() != disk.then) continue;
    const uint32_t controller = generation.controller();
    const uint32_t lun = generation.lun();
    generation = disk.now;
    generation.set_controller(controller);
    generation.set_lun(lun);
  }
  return names;
}

}  // namespace ferry::vm
