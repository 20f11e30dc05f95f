#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/layers/image_config.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {

enum class ArchiveKind { kAny, kOci, kDocker, kRootfs };

// "any", "oci", "docker" or "rootfs".
std::string ArchiveKindName(ArchiveKind kind);
absl::StatusOr<ArchiveKind> ParseArchiveKind(absl::string_view name);

// An image that was taken apart.
struct BuiltImage {
  struct Layer {
    std::string file;  // its EROFS image, in the output folder
    std::string diff_id;
    uint64_t bytes = 0;  // of its files
    uint64_t entries = 0;
  };
  ArchiveKind kind = ArchiveKind::kAny;
  ImageConfig config;
  std::vector<Layer> layers;  // the lowest first
};

std::string ToJsonText(const BuiltImage& image);
// INVALID_ARGUMENT unless it has layers, at most those that are allowed, each in a file of its own.
absl::StatusOr<BuiltImage> BuiltImageFromJson(absl::string_view text, const Limits& limits);

// Told before each layer: how many are done, of how many.
using LayerProgress = std::function<void(size_t done, size_t of)>;

// Takes the archive in the file `source`, which may be compressed with gzip or zstd, apart and
// writes an EROFS image of each layer into the folder `output`, which should be empty. Reads and
// writes nothing else. Errors as of BuildLayer, and INVALID_ARGUMENT where a digest does not fit or
// the archive is not of that kind; UNAVAILABLE if the disk is too full.
absl::StatusOr<BuiltImage> BuildImage(int source, ArchiveKind kind, const Limits& limits,
                                      int output, const LayerProgress& progress);

}  // namespace ferry::layers
