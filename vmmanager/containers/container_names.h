#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What containers are called. No I/O.
namespace ferry::vm {

// 64 hexadecimal digits at random.
std::string NewContainerId();
// As it is shown: its first 12 digits, which is also its host name.
std::string ShortContainerId(const std::string& id);
// As it is in the names of disks, of which a VM has many: its first 16 digits.
std::string ContainerIdOfDisk(const std::string& id);

// Letters, digits, '_', '.' and '-', at most 64, first a letter or digit.
absl::Status CheckContainerName(absl::string_view name);
// Two words, and digits of the id where all that were tried are taken.
std::string MakeUpContainerName(const std::string& id,
                                const std::function<bool(const std::string&)>& taken);

// What a container is found by.
struct ContainerKey {
  std::string id;
  std::string name;
  std::string vm_id;
  std::string vm_name;
  std::string guest_id = {};  // by which its guest knows it: the one that it was made with
};

// The index of the container that `wanted` is: its name, or its id, of which the first 12 digits or
// more are enough, or else the whole id that it was made with. `vm` is its VM's name or id; empty:
// any. NOT_FOUND; FAILED_PRECONDITION "container_ambiguous", naming the VMs or the ids, if that
// could be several.
absl::StatusOr<size_t> FindContainer(const std::vector<ContainerKey>& all,
                                     const std::string& wanted, const std::string& vm);

}  // namespace ferry::vm
