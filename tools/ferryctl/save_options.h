#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "ferry/v1/vm.pb.h"

// What the commands that save and restore VMs share.
namespace ferry::ctl {

// An option that names a file on the VM's host, whose working directory means nothing to a person
// here: a path that is not absolute is a wrong usage.
CLI::Option* AddHostFile(CLI::App* app, const std::string& name, std::string* path,
                         const std::string& help);

// The flags of `save`, and of a `stop` that saves, that say how the VM's file is written.
class SaveFlags {
 public:
  // Returns the options, for others to exclude.
  std::vector<CLI::Option*> AddTo(CLI::App* app);

  // What was given; nothing unset appears in it. Throws CLI::ValidationError where the flags
  // contradict each other.
  v1::SaveOptions ToProto() const;
  // Whether any of them was given.
  bool given() const;

 private:
  std::string compress_, key_file_;
  int32_t level_ = 0;     // 0: not given
  uint32_t workers_ = 0;  // the same
  bool bypass_cache_ = false;
};

}  // namespace ferry::ctl
