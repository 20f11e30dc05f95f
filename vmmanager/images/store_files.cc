#include "vmmanager/images/store_files.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/images/folder_list.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRecord = size_t{16} << 20;
constexpr absl::string_view kShaWord = "sha256:";
constexpr absl::string_view kLayerPrefix = "sha256-";
constexpr absl::string_view kLayerSuffix = ".erofs";

absl::Status MakeStoreFolder(const std::string& path, std::optional<gid_t> passers) {
  std::error_code error;
  const bool fresh = fs::create_directories(path, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make folder ", path, ": ", error.message()));
  }
  if (fresh) RETURN_IF_ERROR(SyncFolder(fs::path(path).parent_path()));
  const mode_t mode = passers ? 0710 : 0700;
  if ((!passers || ::chown(path.c_str(), static_cast<uid_t>(-1), *passers) == 0) &&
      ::chmod(path.c_str(), mode) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot close folder ", path, " to others"));
}

// Passes on a file's bytes until it is told to stop.
class StoppableSource final : public layers::ByteSource {
 public:
  StoppableSource(layers::ByteSource& inner, const std::atomic<bool>& stop)
      : inner_(inner), stop_(stop) {}

  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    if (stop_) return absl::CancelledError("nobody waits for the layer any more");
    return inner_.Read(buffer);
  }

 private:
  layers::ByteSource& inner_;
  const std::atomic<bool>& stop_;
};

absl::StatusOr<std::string> HashFile(int fd, uint64_t size, const std::atomic<bool>& stop) {
  layers::FileSource file(fd, 0, size);
  StoppableSource stoppable(file, stop);
  layers::HashingSource hashed(stoppable);
  return hashed.Finish();
}

bool IsThere(const std::string& path, uint64_t size) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         static_cast<uint64_t>(info.st_size) == size;
}

// Fails if somebody has the file open to write, or has it so in his memory. Where the file system
// knows no leases it cannot be found out.
absl::Status RefuseWriters(int fd, const std::string& file) {
  if (::fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
    ::fcntl(fd, F_SETLEASE, F_UNLCK);
    return absl::OkStatus();
  }
  if (errno != EAGAIN) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the layer ", file, " is still being written"));
}

}  // namespace

absl::StatusOr<StoreFiles::Content> StoreFiles::Load() const {
  RETURN_IF_ERROR(MakeStoreFolder(folder_, readers_));
  RETURN_IF_ERROR(MakeStoreFolder(folder_ + "/layers", readers_));
  for (const char* closed : {"/names", "/pins", "/tmp"}) {
    RETURN_IF_ERROR(MakeStoreFolder(folder_ + closed, std::nullopt));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> left, ListFolder(temporary()));
  for (const std::string& name : left) {
    spdlog::info("sweeping {}/{}, left over from an import", temporary(), name);
    std::error_code ignored;
    fs::remove_all(absl::StrCat(temporary(), "/", name), ignored);
  }
  Content content;
  ASSIGN_OR_RETURN(content.layers, LoadLayers());
  RETURN_IF_ERROR(LoadImages(&content));
  RETURN_IF_ERROR(LoadPins(&content));
  return content;
}

absl::StatusOr<std::map<std::string, uint64_t>> StoreFiles::LoadLayers() const {
  std::map<std::string, uint64_t> sizes;
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(folder_ + "/layers"));
  for (const std::string& file : files) {
    absl::string_view hex = file;
    if (!absl::ConsumePrefix(&hex, kLayerPrefix) || !absl::ConsumeSuffix(&hex, kLayerSuffix)) {
      continue;
    }
    const std::string digest = absl::StrCat(kShaWord, hex);
    if (!layers::IsDigest(digest)) continue;
    struct stat info {};
    if (::lstat(LayerPath(digest).c_str(), &info) != 0) {
      return absl::ErrnoToStatus(errno,
                                 absl::StrCat("cannot look at the layer ", LayerPath(digest)));
    }
    sizes[digest] = static_cast<uint64_t>(info.st_size);
  }
  return sizes;
}

absl::Status StoreFiles::LoadImages(Content* content) const {
  const std::string folder = folder_ + "/names";
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(folder));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(folder, "/", file);
    const auto text = ReadWhole(path, kMaxRecord);
    absl::StatusOr<Image> image =
        text.ok() ? ImageFromJson(*text) : absl::StatusOr<Image>(text.status());
    if (image.ok()) {
      content->images[image->name] = *std::move(image);
      continue;
    }
    spdlog::error("an image is left out, and no layer is removed: {}: {}", path,
                  std::string(image.status().message()));
    content->whole = false;
  }
  return absl::OkStatus();
}

absl::Status StoreFiles::LoadPins(Content* content) const {
  const std::string folder = folder_ + "/pins";
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(folder));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(folder, "/", file);
    const auto text = ReadWhole(path, kMaxRecord);
    absl::StatusOr<ImagePin> pin =
        text.ok() ? PinFromJson(*text) : absl::StatusOr<ImagePin>(text.status());
    if (pin.ok()) {
      content->pins[pin->owner] = *std::move(pin);
      continue;
    }
    spdlog::error("no layer is removed: {}: {}", path, std::string(pin.status().message()));
    content->whole = false;
  }
  return absl::OkStatus();
}

std::string StoreFiles::LayerPath(const std::string& digest) const {
  return absl::StrCat(folder_, "/layers/", kLayerPrefix, absl::StripPrefix(digest, kShaWord),
                      kLayerSuffix);
}

std::string StoreFiles::NameFile(const std::string& name) const {
  layers::Sha256 hash;
  hash.Update(name);
  return absl::StrCat(folder_, "/names/", absl::StripPrefix(hash.Finish(), kShaWord));
}

std::string StoreFiles::PinFile(const std::string& owner) const {
  return absl::StrCat(folder_, "/pins/", owner);
}

absl::Status StoreFiles::Seal(NewLayer* layer, const std::atomic<bool>& stop) const {
  const UniqueFd file(::open(layer->file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the layer ", layer->file));
  }
  if (!S_ISREG(info.st_mode) || info.st_nlink != 1) {
    return absl::InternalError(absl::StrCat("the layer ", layer->file, " is no plain file"));
  }
  if (::fchown(file.get(), ::geteuid(), readers_.value_or(::getegid())) != 0 ||
      ::fchmod(file.get(), readers_ ? 0440 : 0400) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot take over the layer ", layer->file));
  }
  // From here on nobody can open it to write.
  RETURN_IF_ERROR(RefuseWriters(file.get(), layer->file));
  if (::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the layer ", layer->file));
  }
  layer->size = static_cast<uint64_t>(info.st_size);
  ASSIGN_OR_RETURN(layer->digest, HashFile(file.get(), layer->size, stop));
  if (::fsync(file.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot sync the layer ", layer->file));
  }
  return absl::OkStatus();
}

absl::Status StoreFiles::Settle(const std::vector<NewLayer>& layers) const {
  for (const NewLayer& layer : layers) {
    const std::string path = LayerPath(layer.digest);
    if (IsThere(path, layer.size)) continue;
    if (::rename(layer.file.c_str(), path.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot keep the layer ", path));
    }
  }
  return SyncFolder(folder_ + "/layers");
}

absl::Status StoreFiles::CheckLayers(const std::map<std::string, uint64_t>& sizes) const {
  for (const auto& [digest, size] : sizes) {
    if (IsThere(LayerPath(digest), size)) continue;
    return rpc::ErrorWithReason(absl::StatusCode::kDataLoss,
                                absl::StrCat("the layer ", digest, " is missing or damaged"),
                                "layer_missing", "Import the images that use it again.");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> StoreFiles::DigestNow(const std::string& digest,
                                                  const std::atomic<bool>& stop) const {
  const std::string path = LayerPath(digest);
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  return HashFile(file.get(), static_cast<uint64_t>(info.st_size), stop);
}

std::vector<std::string> StoreFiles::RemoveLayers(const std::vector<std::string>& digests) const {
  std::vector<std::string> gone;
  for (const std::string& digest : digests) {
    const std::string path = LayerPath(digest);
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) {
      gone.push_back(digest);
    } else {
      spdlog::warn("cannot remove the layer {}: {}", path,
                   absl::ErrnoToStatus(errno, "unlink").ToString());
    }
  }
  return gone;
}

absl::Status StoreFiles::Write(const Image& image) const {
  return WriteDurably(NameFile(image.name), ToJsonText(image), temporary());
}

absl::Status StoreFiles::Write(const ImagePin& pin) const {
  return WriteDurably(PinFile(pin.owner), ToJsonText(pin), temporary());
}

absl::Status StoreFiles::RemoveImage(const std::string& name) const {
  return RemoveDurably(NameFile(name));
}

absl::Status StoreFiles::RemovePin(const std::string& owner) const {
  return RemoveDurably(PinFile(owner));
}

}  // namespace ferry::vm
