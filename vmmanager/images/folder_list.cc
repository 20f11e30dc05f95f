#include "vmmanager/images/folder_list.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace ferry::vm {

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(path, error);
  // A step that fails leaves an iterator at its end, and its operator++ would throw.
  while (!error && entry != std::filesystem::directory_iterator()) {
    names.push_back(entry->path().filename().string());
    entry.increment(error);
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot list ", path, ": ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace ferry::vm
