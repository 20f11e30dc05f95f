#pragma once

#include <string>

#include "vmmanager/schema/compute_system.h"

namespace ferry::schema {

// The disk at this place of the machine; nullptr if there is none.
const Attachment* FindAttachment(const ComputeSystem& document, const std::string& controller,
                                 const std::string& lun);
Attachment* FindAttachment(ComputeSystem* document, const std::string& controller,
                           const std::string& lun);

}  // namespace ferry::schema
