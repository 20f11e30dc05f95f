#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {

// The files of a plain tar that holds documents and layers, found by name without unpacking it.
class BlobArchive {
 public:
  // Reads the headers of the tar in the file's first `size` bytes. The descriptor is the caller's.
  // An archive with more files than an image can consist of has none of them.
  static absl::StatusOr<BlobArchive> Read(int fd, uint64_t size);

  bool Has(const std::string& path) const { return files_.contains(path); }

  // The file's data; links in the archive are followed. The archive must live as long. NOT_FOUND if
  // there is no such file; INVALID_ARGUMENT if it has holes, as nobody's documents and layers have.
  absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& path) const;
  // INVALID_ARGUMENT if it is larger than `max`.
  absl::StatusOr<std::string> ReadAll(const std::string& path, size_t max) const;

 private:
  struct File {
    uint64_t position = 0;
    std::string link;  // to this path of the archive
    bool sparse = false;
  };

  BlobArchive(int fd, uint64_t size) : fd_(fd), size_(size) {}
  absl::Status Add(const TarEntry& entry);

  const int fd_;
  const uint64_t size_;
  std::map<std::string, File> files_;
};

}  // namespace ferry::layers
