#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/layers/blob_archive.h"
#include "vmmanager/layers/image_config.h"

// Where an image's parts are in an archive of one of the usual kinds.
namespace ferry::layers {

struct ImageParts {
  struct Layer {
    std::string path;     // in the archive
    std::string digest;   // of the file there; empty: not told
    std::string diff_id;  // of the plain tar
  };
  ImageConfig config;
  std::vector<Layer> layers;  // the lowest first
};

// Whether it is an OCI layout, or what `docker save` writes (newer ones are both).
bool IsOciLayout(const BlobArchive& archive);
bool IsDockerArchive(const BlobArchive& archive);

// Both check the digests of the documents on the way. INVALID_ARGUMENT if something is missing or
// does not fit, if there are several images (naming them), or if it is for another machine.
absl::StatusOr<ImageParts> FindOciImage(const BlobArchive& archive, const Limits& limits);
absl::StatusOr<ImageParts> FindDockerImage(const BlobArchive& archive, const Limits& limits);

}  // namespace ferry::layers
