#include "bridge/process/kernel_modules.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

absl::Status KernelModules::LoadFile(const std::string& file_name) const {
  const UniqueFd file(open(absl::StrCat(folder_, "/", file_name).c_str(), O_RDONLY | O_CLOEXEC));
  if (file.valid() && (syscall(SYS_finit_module, file.get(), "", 0) == 0 || errno == EEXIST)) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("module ", file_name));
}

absl::Status KernelModules::Load(const std::string& name) const {
  std::ifstream list(absl::StrCat(folder_, "/modules.dep"));
  for (std::string line; std::getline(list, line);) {
    std::istringstream words(line);
    std::string own;
    words >> own;
    if (own != absl::StrCat(name, ".ko:")) continue;
    for (std::string need; words >> need;) RETURN_IF_ERROR(LoadFile(need));
    return LoadFile(absl::StrCat(name, ".ko"));
  }
  return absl::OkStatus();
}

}  // namespace ferry::bridge
