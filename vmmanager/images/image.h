#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmmanager/layers/image_builder.h"
#include "vmmanager/layers/image_config.h"

namespace ferry::vm {

// A read-only EROFS disk of the store.
struct ImageLayer {
  std::string digest;      // "sha256:...", of the disk's bytes; its name everywhere
  std::string diff_id;     // of the tar that it was made of
  uint64_t disk_size = 0;  // bytes
  uint64_t file_bytes = 0;
  uint64_t entries = 0;

  bool operator==(const ImageLayer&) const = default;
};

struct Image {
  std::string name;  // with its tag
  std::string id;    // the digest of configuration and layers, whatever the name
  layers::ArchiveKind kind = layers::ArchiveKind::kAny;  // of what it was imported from
  layers::ImageConfig config;
  std::vector<ImageLayer> layers;  // the lowest first, as in OCI
  uint64_t created_unix_ms = 0;    // when it was imported

  bool operator==(const Image&) const = default;
};

// Who needs what, so that it is kept: a container, or a session that is bringing one.
struct ImagePin {
  std::string owner;
  std::vector<std::string> image_ids;
  std::vector<std::string> layers;  // digests

  bool operator==(const ImagePin&) const = default;
};

std::string ImageId(const layers::ImageConfig& config, const std::vector<ImageLayer>& layers);

// The files of the store. What is read is checked: INVALID_ARGUMENT if it is not whole.
std::string ToJsonText(const Image& image);
absl::StatusOr<Image> ImageFromJson(absl::string_view text);
std::string ToJsonText(const ImagePin& pin);
absl::StatusOr<ImagePin> PinFromJson(absl::string_view text);

}  // namespace ferry::vm
