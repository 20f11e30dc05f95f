#pragma once

#include <string>

#include "absl/status/status.h"

namespace ferry::bridge {

// Loads kernel modules of the guest image, where modules.dep says what each needs before it.
class KernelModules {
 public:
  explicit KernelModules(std::string folder = "/lib/modules/ferry") : folder_(std::move(folder)) {}

  // Loads `name` (without ".ko") and what it needs. OK if it is loaded already, or if the image has
  // no such module: the kernel has it built in, or what needs it says so.
  absl::Status Load(const std::string& name) const;

  // Loads one file of the folder, and nothing else.
  absl::Status LoadFile(const std::string& file_name) const;

 private:
  std::string folder_;
};

}  // namespace ferry::bridge
