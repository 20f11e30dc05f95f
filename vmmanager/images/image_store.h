#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "vmmanager/images/image.h"
#include "vmmanager/images/store_files.h"
#include "vmmanager/images/temp_folder.h"

// The images of a host and the layers that they share, in files:
//
//   layers/sha256-<hex>.erofs   a layer, read-only, named by the digest of its bytes
//   names/<digest of the name>  an image, as JSON
//   pins/<owner>                who needs what, as JSON
//   tmp/                        what is being made; swept on start
//
// Each file appears whole, by a rename behind a sync, and never changes; a layer is there before
// the image that names it. So a crash leaves at most layers that nobody names, and these are
// collected. After a write that failed or was late nothing is, until the next start has seen what
// is there.
namespace ferry::vm {

// Used on the executor's thread alone; what touches the disk runs on threads of its own. Calls that
// change something run to their end once they have begun to, also if their caller is cancelled.
class ImageStore {
 public:
  struct Options {
    std::string folder;  // made if it is not there
    // May read layers and pass through the folders, beside us: QEMU's. nullopt: nobody.
    std::optional<gid_t> readers;
  };

  // Until Open() has succeeded it has nothing, takes nothing, and says why: UNAVAILABLE.
  ImageStore(Executor executor, Options options);

  // Takes up what is there and sweeps what is left over; once. No other store may use the folder.
  // Takes as long as the disk does; others may ask meanwhile, and are told.
  Task<absl::Status> Open();

  // By name.
  absl::StatusOr<std::vector<Image>> List() const;
  // By name (with or without its tag), or by id, of which the first 12 digits or more are enough.
  // NOT_FOUND; FAILED_PRECONDITION if several have an id that begins like that; DATA_LOSS if a
  // layer was missing when somebody looked last.
  absl::StatusOr<Image> Find(const std::string& name) const;

  bool Has(const std::string& digest) const { return layers_.contains(digest); }
  // Of a layer that it has, in bytes; 0: it has not.
  uint64_t SizeOf(const std::string& digest) const {
    const auto found = layers_.find(digest);
    return found == layers_.end() ? 0 : found->second;
  }
  // Where the layer is, if the store has it.
  std::string PathOf(const std::string& digest) const { return files_.LayerPath(digest); }
  // Reads the layer again. DATA_LOSS if its bytes have not that digest any more.
  Task<absl::Status> Verify(std::string digest);

  // For what becomes part of the store, on its file system. `user` may write into its `out/`.
  Task<absl::StatusOr<std::shared_ptr<TempFolder>>> MakeTempFolder(std::optional<ProcessUser> user);

  // An image whose layers are files in `folder->out_path()`; those that the store has already are
  // dropped, unless they have gone from the disk. Takes the place of another one of that name.
  Task<absl::StatusOr<Image>> Add(std::string name, layers::BuiltImage built,
                                  std::shared_ptr<TempFolder> folder);

  // By name or id, as Find. FAILED_PRECONDITION, naming the owners, while it is pinned, and, naming
  // them, if an id has several names. Layers that nobody else needs go with it.
  Task<absl::Status> Remove(std::string name);

  // Keeps the image and its layers for `owner`, who may pin more than one; returns the image.
  // DATA_LOSS if a layer is missing.
  Task<absl::StatusOr<Image>> Pin(std::string owner, std::string name);
  // Keeps layers that came without their image. NOT_FOUND, naming the first that is not there.
  Task<absl::Status> PinLayers(std::string owner, std::vector<std::string> digests);
  // Keeps those of them that are on the disk. What is not there any more, without the store, is
  // known to be missing from then on.
  Task<absl::Status> PinLayersHere(std::string owner, std::vector<std::string> digests);
  // Takes a file that came from elsewhere (in `folder->path()`) as this layer, and pins it for
  // `owner`. DATA_LOSS if it has another digest; then nothing is kept.
  Task<absl::Status> Adopt(std::string owner, std::string digest, std::string file,
                           std::shared_ptr<TempFolder> folder);
  // The owner needs nothing any more. Unknown owners are fine.
  Task<absl::Status> Unpin(std::string owner);
  std::vector<ImagePin> Pins() const;

 private:
  using Sizes = std::map<std::string, uint64_t>;  // by digest

  Task<absl::Status> Load();
  absl::StatusOr<std::vector<const Image*>> Named(const std::string& name) const;
  absl::Status CheckLayers(const Image& image) const;
  std::vector<std::string> NamesOf(const std::string& image_id) const;
  std::vector<std::string> OwnersOf(const std::string& image_id) const;
  ImagePin PinOf(const std::string& owner) const;
  Task<absl::Status> Seal(std::shared_ptr<TempFolder> folder,
                          std::shared_ptr<std::vector<NewLayer>> layers);
  Task<absl::Status> Change(milliseconds limit, std::function<absl::Status()> change);
  Task<absl::Status> LookFor(Sizes sizes);
  // NOT_FOUND, naming the first that it has not.
  absl::Status CheckHas(const std::vector<std::string>& digests) const;
  Task<absl::Status> LookForAny(std::vector<std::string> digests);
  Task<absl::Status> SavePin(ImagePin pin);
  Task<absl::Status> AddToPin(std::string owner, std::vector<std::string> digests);
  Task<void> Collect();

  const Executor executor_;
  const StoreFiles files_;
  absl::Status usable_;
  BlockingWorker worker_;
  AsyncMutex mutex_;  // held by changes
  std::map<std::string, Image> images_;
  std::map<std::string, ImagePin> pins_;
  Sizes layers_;
  // What is on the disk is not all known: somebody may need any layer, so all are kept.
  bool keep_all_ = false;
};

// Letters, digits, '-', '_' and '.', at most 128: of containers, sessions and the like.
absl::Status CheckPinOwner(const std::string& owner);

}  // namespace ferry::vm
