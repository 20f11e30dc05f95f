#pragma once

#include <map>
#include <string>
#include <utility>

#include "vmmanager/sandbox/checkpoint_steps.h"

namespace ferry::vm {

// Containers of which only their scratch disk is known.
class FakeScratchPlaces final : public ScratchPlaces {
 public:
  std::map<std::string, std::string> files;  // by the container's id
  absl::Status status;                       // of each Put

  std::string FileOf(const std::string& container_id) const override {
    const auto found = files.find(container_id);
    return found == files.end() ? "" : found->second;
  }
  std::string OwnerOf(const std::string&, const std::string& file) const override {
    for (const auto& [id, its] : files) {
      if (its == file) return id;
    }
    return "";
  }
  Task<absl::Status> Put(std::string container_id, std::string file) override {
    if (status.ok()) files[container_id] = std::move(file);
    co_return status;
  }
};

}  // namespace ferry::vm
