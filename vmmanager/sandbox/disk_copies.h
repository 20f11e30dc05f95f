#pragma once

#include <google/protobuf/repeated_field.h>

#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/migration.pb.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/overlay_files.h"

namespace ferry::vm {

// What the source of a migration says of the VM's own disks that can be written to: that they can
// be copied to a destination which does not see them, or why not.
struct CopyWish {
  v1::CopyStorage storage = v1::COPY_STORAGE_UNSPECIFIED;
  bool has_checkpoints = false;  // whose files are what the disks were
};

// Says so in `disks`; nothing if none are to be copied. Without `files` nothing is known of what a
// disk lies over. The arguments must outlive the task.
Task<void> DescribeCopies(v1::VmSpec spec, CopyWish wish,
                          google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
                          ImageDigests* digests, OverlayFiles* files);

}  // namespace ferry::vm
