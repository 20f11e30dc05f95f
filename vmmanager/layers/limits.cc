#include "vmmanager/layers/limits.h"

#include "absl/strings/str_cat.h"

namespace ferry::layers {

absl::Status Budget::SpendBytes(uint64_t bytes) {
  if (bytes > limits_.bytes - bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it unpacks to more than the ", limits_.bytes, " bytes that are allowed"));
  }
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status Budget::SpendEntry() {
  if (entries_ == limits_.entries) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it holds more than the ", limits_.entries, " files that are allowed"));
  }
  ++entries_;
  return absl::OkStatus();
}

}  // namespace ferry::layers
