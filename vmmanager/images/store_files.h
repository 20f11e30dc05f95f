#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/images/image.h"

namespace ferry::vm {

// A file that is to become a layer.
struct NewLayer {
  std::string file;
  std::string digest;  // found out
  uint64_t size = 0;   // found out
};

// The files of an image store, as image_store.h lists them. All of it blocks. Whoever works on them
// on a thread has a copy.
class StoreFiles {
 public:
  // `readers` may read layers and pass through the folders, beside us.
  StoreFiles(std::string folder, std::optional<gid_t> readers)
      : folder_(std::move(folder)), readers_(readers) {}

  struct Content {
    std::map<std::string, Image> images;     // by name
    std::map<std::string, ImagePin> pins;    // by owner
    std::map<std::string, uint64_t> layers;  // sizes, by digest
    bool whole = true;                       // otherwise somebody may need any layer
  };

  // Makes the folders, sweeps what was being made, and reads the rest.
  absl::StatusOr<Content> Load() const;

  // Where things are made.
  std::string temporary() const { return folder_ + "/tmp"; }
  std::string LayerPath(const std::string& digest) const;

  // Makes the file ours and read-only, and finds out its digest. Whoever wrote it must have ended;
  // one that can still write to it is an error. CANCELLED soon after `stop` is set.
  absl::Status Seal(NewLayer* layer, const std::atomic<bool>& stop) const;
  // Gives sealed files their names as layers. Those that are there as a whole stay.
  absl::Status Settle(const std::vector<NewLayer>& layers) const;
  // DATA_LOSS, naming the first that is not there with this size.
  absl::Status CheckLayers(const std::map<std::string, uint64_t>& sizes) const;
  // The digest of the bytes that are there. CANCELLED soon after `stop` is set.
  absl::StatusOr<std::string> DigestNow(const std::string& digest,
                                        const std::atomic<bool>& stop) const;
  // Returns those that are not there any more.
  std::vector<std::string> RemoveLayers(const std::vector<std::string>& digests) const;

  absl::Status Write(const Image& image) const;
  absl::Status Write(const ImagePin& pin) const;
  absl::Status RemoveImage(const std::string& name) const;
  absl::Status RemovePin(const std::string& owner) const;

 private:
  absl::StatusOr<std::map<std::string, uint64_t>> LoadLayers() const;
  absl::Status LoadImages(Content* content) const;
  absl::Status LoadPins(Content* content) const;
  std::string NameFile(const std::string& name) const;
  std::string PinFile(const std::string& owner) const;

  std::string folder_;
  std::optional<gid_t> readers_;
};

}  // namespace ferry::vm
