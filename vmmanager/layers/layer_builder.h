#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {

// What a tar's names mean.
enum class Whiteouts {
  kLiteral,  // files like others: of a whole root file system
  kOci,      // ".wh.NAME" hides NAME of lower layers, ".wh..wh..opq" all that a folder has there
};

// What to know of a layer that was built.
struct LayerSource {
  std::string diff_id;  // the digest of the whole plain tar
  uint64_t bytes = 0;   // of its files
  uint64_t entries = 0;
};

// Makes an EROFS image, in the empty file `image`, of the tar that `source` holds, which may be
// compressed. Whiteouts become what overlayfs understands in a lower layer: devices 0/0, and
// "trusted.overlay.opaque" on folders. The same tar makes the same bytes.
//
// INVALID_ARGUMENT, saying which file and why, for anything that a layer must not hold: paths or
// hard links that leave the archive, devices, attributes of overlayfs, and damaged archives.
// RESOURCE_EXHAUSTED beyond the budget, UNAVAILABLE if the disk is too full for it.
absl::StatusOr<LayerSource> BuildLayer(ByteSource& source, Whiteouts whiteouts, Budget& budget,
                                       int image);

}  // namespace ferry::layers
