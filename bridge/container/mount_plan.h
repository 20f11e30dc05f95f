#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/protocol/container_messages.h"

// What to mount, as mount(2) wants it. No I/O.
namespace ferry::bridge {

struct MountPlan {
  std::string source;  // of a disk: empty, its device is not known here
  std::string type;
  unsigned long flags = 0;
  std::string data;
};

// How much of a disk's start is looked at. Every file system in use leaves a mark there: the
// farthest that is known is btrfs's, behind 64 KiB.
inline constexpr size_t kProbeSize = 1 << 20;

// erofs, squashfs or ext4 by the super block in a disk's first bytes; empty if it has none of them.
std::string ProbeFilesystem(std::string_view start);

// Whether nothing at all was written there. False if less than kProbeSize was read: a disk that
// small holds no file system, and one that ends early is broken.
bool IsBlank(std::string_view start);

// INVALID_ARGUMENT for a file system that the agent does not mount, or not writable.
absl::StatusOr<MountPlan> PlanDisk(const MappedVirtualDisk& disk, const std::string& filesystem);

MountPlan PlanDirectory(const MappedDirectory& directory);

// The kernel modules that a file system needs, in their order.
std::vector<std::string> ModulesFor(const std::string& filesystem);

// The folders of the writable layer in its scratch.
std::string UpperFolder(const CombinedLayers& layers);
std::string WorkFolder(const CombinedLayers& layers);

// INVALID_ARGUMENT if there are no layers, or if their paths do not fit into one mount.
absl::StatusOr<MountPlan> PlanOverlay(const CombinedLayers& layers);

}  // namespace ferry::bridge
