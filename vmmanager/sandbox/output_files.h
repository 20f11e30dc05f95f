#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "vmmanager/sandbox/host_settings.h"

namespace ferry::vm {

// The files with what detached processes of one VM have written to their stdio ports. They are of
// one boot. Blocks for as long as the state folder does.
class OutputFiles {
 public:
  // `settings` must outlive it.
  OutputFiles(const HostSettings& settings, std::string vm_id)
      : settings_(settings), vm_id_(std::move(vm_id)) {}

  // Where they are; empty if none are kept.
  std::string folder() const;
  std::string PathOf(uint32_t port) const;
  // Where this fails, so does each attempt to keep something, and says so.
  void MakeFolder() const;
  void Remove() const;
  // Of a former boot.
  void Clear() const;

 private:
  const HostSettings& settings_;
  std::string vm_id_;
};

}  // namespace ferry::vm
