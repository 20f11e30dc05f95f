#include "vmmanager/images/image_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/images/folder_list.h"
#include "vmmanager/images/image_name.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

namespace fs = std::filesystem;

constexpr milliseconds kRecordTime{60'000};
constexpr milliseconds kLayerTime{3'600'000};  // to read or sync a large one on a busy disk
constexpr size_t kMaxRecord = size_t{16} << 20;
constexpr size_t kMaxOwner = 128;
constexpr size_t kHashPiece = size_t{1} << 20;
constexpr absl::string_view kDigestWord = "sha256:";
constexpr absl::string_view kLayerPrefix = "sha256-";
constexpr absl::string_view kLayerSuffix = ".erofs";

absl::Status MakeStoreFolder(const std::string& path, std::optional<gid_t> passers) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make folder ", path, ": ", error.message()));
  }
  const mode_t mode = passers ? 0710 : 0700;
  if ((!passers || ::chown(path.c_str(), static_cast<uid_t>(-1), *passers) == 0) &&
      ::chmod(path.c_str(), mode) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot close folder ", path, " to others"));
}

absl::StatusOr<std::string> HashFile(int fd, uint64_t size) {
  layers::FileSource file(fd, 0, size);
  layers::HashingSource hashed(file);
  return hashed.Finish();
}

absl::Status LayerIsGone(const std::string& digest) {
  return rpc::ErrorWithReason(absl::StatusCode::kNotFound,
                              absl::StrCat("this host does not have the layer ", digest),
                              "no_such_layer");
}

absl::Status NoSuchImage(const std::string& name) {
  return rpc::ErrorWithReason(absl::StatusCode::kNotFound,
                              absl::StrCat("this host has no image ", name), "no_such_image",
                              "ferryctl image list shows those that it has; ferryctl image import "
                              "NAME FILE adds one.");
}

// Runs to its end from here, whoever waits for it.
Task<void> StayToTheEnd() {
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
}

}  // namespace

absl::Status CheckPinOwner(const std::string& owner) {
  const bool good = !owner.empty() && owner.size() <= kMaxOwner && owner.front() != '.' &&
                    std::all_of(owner.begin(), owner.end(), [](char c) {
                      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                             c == '_' || c == '.';
                    });
  return good ? absl::OkStatus()
              : absl::InvalidArgumentError(absl::StrCat("\"", owner, "\" is no owner's id"));
}

ImageStore::ImageStore(Executor executor, Options options)
    : executor_(executor), options_(std::move(options)), worker_(executor), mutex_(executor) {}

Task<absl::StatusOr<std::unique_ptr<ImageStore>>> ImageStore::Open(Executor executor,
                                                                   Options options) {
  std::unique_ptr<ImageStore> store(new ImageStore(std::move(executor), std::move(options)));
  std::function<absl::Status()> load = [raw = store.get()] { return raw->Load(); };
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(co_await store->worker_.Run(kLayerTime, "the images' disk", std::move(load)));
  co_await store->Collect();
  co_return store;
}

absl::Status ImageStore::Load() {
  RETURN_IF_ERROR(MakeStoreFolder(options_.folder, options_.readers));
  RETURN_IF_ERROR(MakeStoreFolder(options_.folder + "/layers", options_.readers));
  for (const char* closed : {"/names", "/pins", "/tmp"}) {
    RETURN_IF_ERROR(MakeStoreFolder(options_.folder + closed, std::nullopt));
  }
  const std::string temporary = options_.folder + "/tmp";
  ASSIGN_OR_RETURN(const std::vector<std::string> left, ListFolder(temporary));
  for (const std::string& name : left) {
    spdlog::info("sweeping {}/{}, left over from an import", temporary, name);
    std::error_code ignored;
    fs::remove_all(absl::StrCat(temporary, "/", name), ignored);
  }
  RETURN_IF_ERROR(LoadLayers());
  RETURN_IF_ERROR(LoadImages());
  return LoadPins();
}

absl::Status ImageStore::LoadLayers() {
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(options_.folder + "/layers"));
  for (const std::string& file : files) {
    absl::string_view hex = file;
    if (!absl::ConsumePrefix(&hex, kLayerPrefix) || !absl::ConsumeSuffix(&hex, kLayerSuffix)) {
      continue;
    }
    const std::string digest = absl::StrCat(kDigestWord, hex);
    if (!layers::IsDigest(digest)) continue;
    struct stat info {};
    if (::lstat(PathOf(digest).c_str(), &info) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the layer ", PathOf(digest)));
    }
    layers_[digest] = static_cast<uint64_t>(info.st_size);
  }
  return absl::OkStatus();
}

absl::Status ImageStore::LoadImages() {
  const std::string folder = options_.folder + "/names";
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(folder));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(folder, "/", file);
    const auto text = ReadWhole(path, kMaxRecord);
    absl::StatusOr<Image> image =
        text.ok() ? ImageFromJson(*text) : absl::StatusOr<Image>(text.status());
    if (image.ok()) {
      images_[image->name] = *std::move(image);
      continue;
    }
    spdlog::error("an image is left out, and no layer is removed: {}: {}", path,
                  std::string(image.status().message()));
    keep_all_ = true;
  }
  return absl::OkStatus();
}

absl::Status ImageStore::LoadPins() {
  const std::string folder = options_.folder + "/pins";
  ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFolder(folder));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(folder, "/", file);
    const auto text = ReadWhole(path, kMaxRecord);
    absl::StatusOr<ImagePin> pin =
        text.ok() ? PinFromJson(*text) : absl::StatusOr<ImagePin>(text.status());
    if (pin.ok()) {
      pins_[pin->owner] = *std::move(pin);
      continue;
    }
    spdlog::error("no layer is removed: {}: {}", path, std::string(pin.status().message()));
    keep_all_ = true;
  }
  return absl::OkStatus();
}

std::string ImageStore::PathOf(const std::string& digest) const {
  return absl::StrCat(options_.folder, "/layers/", kLayerPrefix,
                      absl::StripPrefix(digest, kDigestWord), kLayerSuffix);
}

std::string ImageStore::NameFile(const std::string& name) const {
  layers::Sha256 hash;
  hash.Update(name);
  return absl::StrCat(options_.folder, "/names/", absl::StripPrefix(hash.Finish(), kDigestWord));
}

std::string ImageStore::PinFile(const std::string& owner) const {
  return absl::StrCat(options_.folder, "/pins/", owner);
}

std::vector<Image> ImageStore::List() const {
  std::vector<Image> images;
  for (const auto& [name, image] : images_) images.push_back(image);
  return images;
}

absl::StatusOr<Image> ImageStore::Find(const std::string& name) const {
  const Image* found = nullptr;
  if (layers::IsDigest(name)) {
    for (const auto& [full, image] : images_) {
      if (image.id == name) found = &image;
    }
  } else {
    ASSIGN_OR_RETURN(const std::string full, FullImageName(name));
    const auto image = images_.find(full);
    if (image != images_.end()) found = &image->second;
  }
  if (found == nullptr) return NoSuchImage(name);
  for (const ImageLayer& layer : found->layers) {
    if (Has(layer.digest)) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("the image ", found->name, " lacks its layer ", layer.digest), "layer_missing",
        "Import it again.");
  }
  return *found;
}

std::vector<ImagePin> ImageStore::Pins() const {
  std::vector<ImagePin> pins;
  for (const auto& [owner, pin] : pins_) pins.push_back(pin);
  return pins;
}

std::vector<std::string> ImageStore::OwnersOf(const std::string& image_id) const {
  std::vector<std::string> owners;
  for (const auto& [owner, pin] : pins_) {
    if (std::count(pin.image_ids.begin(), pin.image_ids.end(), image_id) > 0) {
      owners.push_back(owner);
    }
  }
  return owners;
}

absl::StatusOr<std::shared_ptr<TempFolder>> ImageStore::MakeTempFolder(
    const std::optional<ProcessUser>& user) {
  return TempFolder::Make(executor_, options_.folder + "/tmp", user);
}

// Makes the file ours and read-only, and finds out its digest. Whoever wrote it has ended.
absl::Status ImageStore::Seal(Sealed* layer) const {
  const UniqueFd file(::open(layer->file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the layer ", layer->file));
  }
  if (!S_ISREG(info.st_mode) || info.st_nlink != 1) {
    return absl::InternalError(absl::StrCat("the layer ", layer->file, " is no plain file"));
  }
  if (::fchown(file.get(), ::geteuid(), options_.readers.value_or(::getegid())) != 0 ||
      ::fchmod(file.get(), options_.readers ? 0440 : 0400) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot take over the layer ", layer->file));
  }
  layer->size = static_cast<uint64_t>(info.st_size);
  ASSIGN_OR_RETURN(layer->digest, HashFile(file.get(), layer->size));
  if (::fsync(file.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot sync the layer ", layer->file));
  }
  return absl::OkStatus();
}

// Gives the layers their final names.
absl::Status ImageStore::Settle(const std::vector<Sealed>& layers) const {
  for (const Sealed& layer : layers) {
    const std::string path = PathOf(layer.digest);
    if (::rename(layer.file.c_str(), path.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot keep the layer ", path));
    }
  }
  return SyncFolder(options_.folder + "/layers");
}

absl::Status ImageStore::WriteRecord(const std::string& path, const std::string& text) const {
  return WriteDurably(path, text, options_.folder + "/tmp");
}

Task<absl::StatusOr<Image>> ImageStore::Add(std::string name, layers::BuiltImage built,
                                            std::shared_ptr<TempFolder> folder) {
  co_await StayToTheEnd();
  Image image;
  CO_ASSIGN_OR_RETURN(image.name, FullImageName(name));
  auto sealed = std::make_shared<std::vector<Sealed>>();
  for (const auto& layer : built.layers) {
    sealed->push_back({absl::StrCat(folder->out_path(), "/", layer.file), "", 0});
  }
  std::function<absl::Status()> seal = [this, sealed] {
    for (Sealed& layer : *sealed) RETURN_IF_ERROR(Seal(&layer));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(
      co_await folder->worker().Run(kLayerTime, "the images' disk", std::move(seal)));
  for (size_t i = 0; i < sealed->size(); ++i) {
    image.layers.push_back({(*sealed)[i].digest, built.layers[i].diff_id, (*sealed)[i].size,
                            built.layers[i].bytes, built.layers[i].entries});
  }
  image.kind = built.kind;
  image.config = built.config;
  image.id = ImageId(image.config, image.layers);
  image.created_unix_ms = NowUnixMs();

  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  std::vector<Sealed> fresh;
  std::set<std::string> seen;
  for (const Sealed& layer : *sealed) {
    if (!Has(layer.digest) && seen.insert(layer.digest).second) fresh.push_back(layer);
  }
  std::function<absl::Status()> write = [this, fresh, path = NameFile(image.name),
                                         text = ToJsonText(image)] {
    RETURN_IF_ERROR(Settle(fresh));
    return WriteRecord(path, text);
  };
  const absl::Status written =
      co_await worker_.Run(kLayerTime, "the images' disk", std::move(write));
  // What was renamed before a failure is there, and nobody names it.
  for (const Sealed& layer : fresh) {
    if (::access(PathOf(layer.digest).c_str(), F_OK) == 0) layers_[layer.digest] = layer.size;
  }
  if (written.ok()) images_[image.name] = image;
  co_await Collect();
  if (!written.ok()) co_return written;
  co_return image;
}

Task<absl::Status> ImageStore::Remove(std::string name) {
  co_await StayToTheEnd();
  CO_ASSIGN_OR_RETURN(const std::string full, FullImageName(name));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  const auto image = images_.find(full);
  if (image == images_.end()) co_return NoSuchImage(full);
  const std::string id = image->second.id;
  const auto same = std::count_if(images_.begin(), images_.end(),
                                  [&id](const auto& other) { return other.second.id == id; });
  const std::vector<std::string> owners = OwnersOf(id);
  if (same == 1 && !owners.empty()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the image ", full, " is in use by ", absl::StrJoin(owners, ", ")),
        "image_in_use", "Remove what uses it first.");
  }
  std::function<absl::Status()> remove = [path = NameFile(full)] { return RemoveDurably(path); };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kRecordTime, "the images' disk", std::move(remove)));
  images_.erase(full);
  co_await Collect();
  co_return absl::OkStatus();
}

ImagePin ImageStore::PinOf(const std::string& owner) const {
  const auto pin = pins_.find(owner);
  return pin == pins_.end() ? ImagePin{owner, {}, {}} : pin->second;
}

Task<absl::Status> ImageStore::SavePin(ImagePin pin) {
  for (std::vector<std::string>* list : {&pin.image_ids, &pin.layers}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  std::function<absl::Status()> write = [this, path = PinFile(pin.owner), text = ToJsonText(pin)] {
    return WriteRecord(path, text);
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kRecordTime, "the images' disk", std::move(write)));
  pins_[pin.owner] = std::move(pin);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<Image>> ImageStore::Pin(std::string owner, std::string name) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_ASSIGN_OR_RETURN(const Image image, Find(name));
  ImagePin pin = PinOf(owner);
  pin.image_ids.push_back(image.id);
  for (const ImageLayer& layer : image.layers) pin.layers.push_back(layer.digest);
  const absl::Status saved = co_await SavePin(std::move(pin));
  if (!saved.ok()) co_return saved;
  co_return image;
}

Task<absl::Status> ImageStore::PinLayers(std::string owner, std::vector<std::string> digests) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  for (const std::string& digest : digests) {
    if (!Has(digest)) co_return LayerIsGone(digest);
  }
  ImagePin pin = PinOf(owner);
  pin.layers.insert(pin.layers.end(), digests.begin(), digests.end());
  co_return co_await SavePin(std::move(pin));
}

Task<absl::Status> ImageStore::Adopt(std::string owner, std::string digest, std::string file,
                                     std::shared_ptr<TempFolder> folder) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  if (!layers::IsDigest(digest)) co_return absl::InvalidArgumentError("it has no valid digest");
  auto sealed = std::make_shared<Sealed>();
  sealed->file = absl::StrCat(folder->path(), "/", file);
  std::function<absl::Status()> seal = [this, sealed] { return Seal(sealed.get()); };
  CO_RETURN_IF_ERROR(
      co_await folder->worker().Run(kLayerTime, "the images' disk", std::move(seal)));
  if (sealed->digest != digest) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("what came as the layer ", digest, " has the digest ", sealed->digest),
        "layer_damaged");
  }
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  // Pinned first: so it is never there without somebody who needs it.
  ImagePin pin = PinOf(owner);
  pin.layers.push_back(digest);
  CO_RETURN_IF_ERROR(co_await SavePin(std::move(pin)));
  if (Has(digest)) co_return absl::OkStatus();
  std::function<absl::Status()> settle = [this, sealed] { return Settle({*sealed}); };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kRecordTime, "the images' disk", std::move(settle)));
  layers_[digest] = sealed->size;
  co_return absl::OkStatus();
}

Task<absl::Status> ImageStore::Unpin(std::string owner) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  if (!pins_.contains(owner)) co_return absl::OkStatus();
  std::function<absl::Status()> remove = [path = PinFile(owner)] { return RemoveDurably(path); };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kRecordTime, "the images' disk", std::move(remove)));
  pins_.erase(owner);
  co_await Collect();
  co_return absl::OkStatus();
}

Task<absl::Status> ImageStore::Verify(std::string digest) {
  if (!Has(digest)) co_return LayerIsGone(digest);
  std::function<absl::Status()> read = [path = PathOf(digest), digest] {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!file.valid() || ::fstat(file.get(), &info) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    }
    ASSIGN_OR_RETURN(const std::string found,
                     HashFile(file.get(), static_cast<uint64_t>(info.st_size)));
    if (found == digest) return absl::OkStatus();
    return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("the layer ", digest, " is damaged: its digest is ", found), "layer_damaged",
        "Remove the images that use it and import them again.");
  };
  // Not the store's own thread, which others wait for.
  auto worker = std::make_shared<BlockingWorker>(executor_);
  co_return co_await worker->Run(kLayerTime, "the images' disk", std::move(read));
}

// With the mutex, or before anybody else has the store.
Task<void> ImageStore::Collect() {
  if (keep_all_) co_return;
  std::set<std::string> needed;
  for (const auto& [name, image] : images_) {
    for (const ImageLayer& layer : image.layers) needed.insert(layer.digest);
  }
  for (const auto& [owner, pin] : pins_) needed.insert(pin.layers.begin(), pin.layers.end());
  std::vector<std::string> gone;
  for (const auto& [digest, size] : layers_) {
    if (!needed.contains(digest)) gone.push_back(digest);
  }
  if (gone.empty()) co_return;
  std::vector<std::string> paths;
  for (const std::string& digest : gone) paths.push_back(PathOf(digest));
  std::function<absl::Status()> remove = [paths] {
    for (const std::string& path : paths) ::unlink(path.c_str());
    return absl::OkStatus();
  };
  const absl::Status removed =
      co_await worker_.Run(kRecordTime, "the images' disk", std::move(remove));
  if (!removed.ok()) spdlog::warn("layers were not removed: {}", removed.ToString());
  for (const std::string& digest : gone) layers_.erase(digest);
}

}  // namespace ferry::vm
