#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "vmmanager/layers/byte_source.h"

namespace ferry::layers {

inline std::string DigestOf(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(absl::MakeConstSpan(bytes.data(), bytes.size()));
  return hash.Finish();
}

}  // namespace ferry::layers
