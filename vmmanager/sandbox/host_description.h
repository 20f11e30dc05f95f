#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "ferry/v1/host.pb.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

// What a program says of itself.
struct ProgramInfo {
  std::string version;
  // Of each format that travels or is kept, the newest version that it speaks, by name.
  std::map<std::string, uint32_t> formats;
};

// The host as its clients and peers see it.
v1::Host DescribeHost(const SandboxDeps& deps, const ProgramInfo& program);

}  // namespace ferry::vm
