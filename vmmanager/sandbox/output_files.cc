#include "vmmanager/sandbox/output_files.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "guestmanager/spool_file.h"

namespace ferry::vm {

std::string OutputFiles::folder() const {
  const std::string& all = settings_.spool_folder;
  return all.empty() ? all : absl::StrCat(all, "/", vm_id_);
}

std::string OutputFiles::PathOf(uint32_t port) const {
  guest::SpoolSettings settings;
  settings.folder = folder();
  return settings.PathOf(port);
}

void OutputFiles::MakeFolder() const {
  std::error_code ignored;
  if (const std::string path = folder(); !path.empty()) {
    std::filesystem::create_directories(path, ignored);
  }
}

void OutputFiles::Remove() const {
  std::error_code ignored;
  if (const std::string path = folder(); !path.empty()) {
    std::filesystem::remove_all(path, ignored);
  }
}

void OutputFiles::Clear() const {
  Remove();
  MakeFolder();
}

}  // namespace ferry::vm
