#pragma once

#include <cstdint>
#include <string>

namespace ferry::guest {

// A container that is to be made of what lies in the guest already.
struct NewContainer {
  std::string id;
  std::string bundle_path;
  std::string oci_specification;  // JSON text
  bool has_stdin = false;
  bool terminal = false;
  uint32_t rows = 0;
  uint32_t columns = 0;
  bool detached = false;
  std::string request_id;
};

}  // namespace ferry::guest
