#include "vmmanager/schema/attachments.h"

#include <utility>

namespace ferry::schema {

const Attachment* FindAttachment(const ComputeSystem& document, const std::string& controller,
                                 const std::string& lun) {
  const auto& scsi = document.virtual_machine.devices.scsi;
  const auto at = scsi.find(controller);
  if (at == scsi.end()) return nullptr;
  const auto disk = at->second.attachments.find(lun);
  return disk == at->second.attachments.end() ? nullptr : &disk->second;
}

Attachment* FindAttachment(ComputeSystem* document, const std::string& controller,
                           const std::string& lun) {
  return const_cast<Attachment*>(FindAttachment(std::as_const(*document), controller, lun));
}

}  // namespace ferry::schema
