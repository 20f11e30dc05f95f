#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "bridge/runtime/unique_fd.h"

namespace ferry::layers {

// A file that lives as long as its descriptor.
inline UniqueFd MemoryFile(const std::string& content = "") {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  if (!fd.valid() || ::pwrite(fd.get(), content.data(), content.size(), 0) !=
                         static_cast<ssize_t>(content.size())) {
    std::abort();
  }
  return fd;
}

inline std::string ContentOf(int fd) {
  struct stat info {};
  ::fstat(fd, &info);
  std::string content(static_cast<size_t>(info.st_size), '\0');
  if (::pread(fd, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) {
    std::abort();
  }
  return content;
}

}  // namespace ferry::layers
