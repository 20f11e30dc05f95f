#include "vmmanager/images/image_store.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/images/image_name.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr char kImagesDisk[] = "the images' disk";
constexpr milliseconds kRecordTime{60'000};
constexpr milliseconds kOpenTime{3'600'000};   // nobody is kept from anything else meanwhile
constexpr milliseconds kLayerTime{3'600'000};  // to read or sync a large one on a busy disk
constexpr size_t kMaxOwner = 128;

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

// Tells a thread that nobody waits for it any more.
class StopOnDrop {
 public:
  StopOnDrop() = default;
  ~StopOnDrop() { *stop_ = true; }
  StopOnDrop(const StopOnDrop&) = delete;
  StopOnDrop& operator=(const StopOnDrop&) = delete;

  std::shared_ptr<const std::atomic<bool>> flag() const { return stop_; }

 private:
  const std::shared_ptr<std::atomic<bool>> stop_ = std::make_shared<std::atomic<bool>>(false);
};

// From here on only we change what is in it.
absl::Status TakeBack(const std::string& folder) {
  if (::lchown(folder.c_str(), ::geteuid(), ::getegid()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot take the folder ", folder, " back"));
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
    : executor_(executor),
      files_(std::move(options.folder), options.readers),
      usable_(rpc::ErrorWithReason(absl::StatusCode::kUnavailable,
                                   "this host is still opening its images", "images_opening",
                                   "Try again in a moment; a slow disk is what takes it longer.")),
      worker_(executor),
      mutex_(executor) {}

Task<absl::Status> ImageStore::Open() {
  co_await StayToTheEnd();
  const absl::Status loaded = co_await Load();
  usable_ = absl::OkStatus();
  if (!loaded.ok()) {
    usable_ = rpc::ErrorWithReason(
        absl::StatusCode::kUnavailable,
        absl::StrCat("this host cannot use its images: ", std::string(loaded.message())),
        "images_unavailable", "Mend what is wrong with their folder and start ferryd again.");
  }
  co_return loaded;
}

Task<absl::Status> ImageStore::Load() {
  auto content = std::make_shared<StoreFiles::Content>();
  std::function<absl::Status()> load = [files = files_, content] {
    ASSIGN_OR_RETURN(*content, files.Load());
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kOpenTime, kImagesDisk, std::move(load)));
  images_ = std::move(content->images);
  pins_ = std::move(content->pins);
  layers_ = std::move(content->layers);
  keep_all_ = !content->whole;
  co_await Collect();
  co_return absl::OkStatus();
}

absl::StatusOr<std::vector<Image>> ImageStore::List() const {
  RETURN_IF_ERROR(usable_);
  std::vector<Image> images;
  for (const auto& [name, image] : images_) images.push_back(image);
  return images;
}

// The image of this name, or else all that have an id that begins like that, which is the same one.
absl::StatusOr<std::vector<const Image*>> ImageStore::Named(const std::string& name) const {
  RETURN_IF_ERROR(usable_);
  const absl::StatusOr<std::string> full = FullImageName(name);
  if (full.ok()) {
    const auto image = images_.find(*full);
    if (image != images_.end()) return std::vector<const Image*>{&image->second};
  }
  const std::string begin = ImageIdBegin(name);
  if (begin.empty() && !full.ok()) return full.status();
  std::vector<const Image*> found;
  for (const auto& [other, image] : images_) {
    if (!begin.empty() && image.id.compare(0, begin.size(), begin) == 0) found.push_back(&image);
  }
  if (found.empty()) return NoSuchImage(full.value_or(name));
  for (const Image* image : found) {
    if (image->id == found.front()->id) continue;
    return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                                absl::StrCat("several images have an id that begins with ", name),
                                "ambiguous_image", "Give more digits, or a name.");
  }
  return found;
}

absl::Status ImageStore::CheckLayers(const Image& image) const {
  for (const ImageLayer& layer : image.layers) {
    const auto here = layers_.find(layer.digest);
    if (here != layers_.end() && here->second == layer.disk_size) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("the image ", image.name, " lacks its layer ", layer.digest), "layer_missing",
        "Import it again.");
  }
  return absl::OkStatus();
}

absl::StatusOr<Image> ImageStore::Find(const std::string& name) const {
  ASSIGN_OR_RETURN(const std::vector<const Image*> found, Named(name));
  RETURN_IF_ERROR(CheckLayers(*found.front()));
  return *found.front();
}

std::vector<ImagePin> ImageStore::Pins() const {
  std::vector<ImagePin> pins;
  for (const auto& [owner, pin] : pins_) pins.push_back(pin);
  return pins;
}

std::vector<std::string> ImageStore::NamesOf(const std::string& image_id) const {
  std::vector<std::string> names;
  for (const auto& [name, image] : images_) {
    if (image.id == image_id) names.push_back(name);
  }
  return names;
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

Task<absl::StatusOr<std::shared_ptr<TempFolder>>> ImageStore::MakeTempFolder(
    std::optional<ProcessUser> user) {
  CO_RETURN_IF_ERROR(usable_);
  std::string parent = files_.temporary();
  co_return co_await TempFolder::Make(executor_, std::move(parent), std::move(user));
}

Task<absl::Status> ImageStore::Seal(std::shared_ptr<TempFolder> folder,
                                    std::shared_ptr<std::vector<NewLayer>> layers) {
  const StopOnDrop stop;
  std::function<absl::Status()> seal = [files = files_, layers, stopped = stop.flag(),
                                        out = folder->out_path()] {
    RETURN_IF_ERROR(TakeBack(out));
    for (NewLayer& layer : *layers) RETURN_IF_ERROR(files.Seal(&layer, *stopped));
    return absl::OkStatus();
  };
  co_return co_await folder->worker().Run(kLayerTime, kImagesDisk, std::move(seal));
}

// With the mutex. What failed may have been done in part, and what was late may still be done.
Task<absl::Status> ImageStore::Change(milliseconds limit, std::function<absl::Status()> change) {
  const absl::Status changed = co_await worker_.Run(limit, kImagesDisk, std::move(change));
  if (!changed.ok() && !keep_all_) {
    keep_all_ = true;
    spdlog::error("no layer is removed until ferryd starts again: {}",
                  std::string(changed.message()));
  }
  co_return changed;
}

// Whether layers are on the disk. With the mutex. Those that are not are forgotten.
Task<absl::Status> ImageStore::LookFor(Sizes sizes) {
  auto missing = std::make_shared<std::vector<std::string>>();
  std::function<absl::Status()> look = [files = files_, sizes = std::move(sizes), missing] {
    absl::Status first;
    for (const auto& layer : sizes) {
      const absl::Status there = files.CheckLayers({layer});
      if (there.ok()) continue;
      missing->push_back(layer.first);
      first.Update(there);
    }
    return first;
  };
  const absl::Status found = co_await worker_.Run(kRecordTime, kImagesDisk, std::move(look));
  if (absl::IsDataLoss(found)) {
    for (const std::string& digest : *missing) layers_.erase(digest);
  }
  co_return found;
}

Task<absl::StatusOr<Image>> ImageStore::Add(std::string name, layers::BuiltImage built,
                                            std::shared_ptr<TempFolder> folder) {
  CO_RETURN_IF_ERROR(usable_);
  Image image;
  CO_ASSIGN_OR_RETURN(image.name, FullImageName(name));
  auto sealed = std::make_shared<std::vector<NewLayer>>();
  for (const auto& layer : built.layers) {
    sealed->push_back({absl::StrCat(folder->out_path(), "/", layer.file), "", 0});
  }
  CO_RETURN_IF_ERROR(co_await Seal(folder, sealed));
  for (size_t i = 0; i < sealed->size(); ++i) {
    image.layers.push_back({(*sealed)[i].digest, built.layers[i].diff_id, (*sealed)[i].size,
                            built.layers[i].bytes, built.layers[i].entries});
  }
  image.kind = built.kind;
  image.config = built.config;
  image.id = ImageId(image.config, image.layers);
  image.created_unix_ms = NowUnixMs();

  co_await StayToTheEnd();
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  std::function<absl::Status()> write = [files = files_, layers = *sealed, image] {
    RETURN_IF_ERROR(files.Settle(layers));
    return files.Write(image);
  };
  CO_RETURN_IF_ERROR(co_await Change(kLayerTime, std::move(write)));
  for (const NewLayer& layer : *sealed) layers_[layer.digest] = layer.size;
  images_[image.name] = image;
  co_await Collect();
  co_return image;
}

Task<absl::Status> ImageStore::Remove(std::string name) {
  co_await StayToTheEnd();
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_ASSIGN_OR_RETURN(const std::vector<const Image*> found, Named(name));
  const std::string id = found.front()->id;
  const std::string full = found.front()->name;
  const std::vector<std::string> names = NamesOf(id);
  if (found.size() > 1) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the image ", name, " has several names: ", absl::StrJoin(names, ", ")),
        "ambiguous_image", "Remove it by each of them.");
  }
  const std::vector<std::string> owners = OwnersOf(id);
  if (names.size() == 1 && !owners.empty()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the image ", full, " is in use by ", absl::StrJoin(owners, ", ")),
        "image_in_use", "Remove what uses it first.");
  }
  std::function<absl::Status()> remove = [files = files_, full] { return files.RemoveImage(full); };
  CO_RETURN_IF_ERROR(co_await Change(kRecordTime, std::move(remove)));
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
  std::function<absl::Status()> write = [files = files_, pin] { return files.Write(pin); };
  CO_RETURN_IF_ERROR(co_await Change(kRecordTime, std::move(write)));
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
  Sizes sizes;
  for (const ImageLayer& layer : image.layers) {
    pin.layers.push_back(layer.digest);
    sizes[layer.digest] = layer.disk_size;
  }
  CO_RETURN_IF_ERROR(co_await LookFor(std::move(sizes)));
  const absl::Status saved = co_await SavePin(std::move(pin));
  if (!saved.ok()) co_return saved;
  co_return image;
}

Task<absl::Status> ImageStore::PinLayers(std::string owner, std::vector<std::string> digests) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(usable_);
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_RETURN_IF_ERROR(CheckHas(digests));
  CO_RETURN_IF_ERROR(co_await LookForAny(digests));
  CO_RETURN_IF_ERROR(CheckHas(digests));
  co_return co_await AddToPin(std::move(owner), std::move(digests));
}

absl::Status ImageStore::CheckHas(const std::vector<std::string>& digests) const {
  for (const std::string& digest : digests) {
    if (!Has(digest)) return LayerIsGone(digest);
  }
  return absl::OkStatus();
}

Task<absl::Status> ImageStore::PinLayersHere(std::string owner, std::vector<std::string> digests) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(usable_);
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_RETURN_IF_ERROR(co_await LookForAny(digests));
  std::erase_if(digests, [this](const std::string& digest) { return !Has(digest); });
  co_return co_await AddToPin(std::move(owner), std::move(digests));
}

// With the mutex. From then on it is known which of them are there.
Task<absl::Status> ImageStore::LookForAny(std::vector<std::string> digests) {
  Sizes sizes;
  for (const std::string& digest : digests) {
    const auto layer = layers_.find(digest);
    if (layer != layers_.end()) sizes.insert(*layer);
  }
  const absl::Status found = co_await LookFor(std::move(sizes));
  co_return absl::IsDataLoss(found) ? absl::OkStatus() : found;
}

// With the mutex, of layers that are there.
Task<absl::Status> ImageStore::AddToPin(std::string owner, std::vector<std::string> digests) {
  ImagePin pin = PinOf(owner);
  pin.layers.insert(pin.layers.end(), digests.begin(), digests.end());
  co_return co_await SavePin(std::move(pin));
}

Task<absl::Status> ImageStore::Adopt(std::string owner, std::string digest, std::string file,
                                     std::shared_ptr<TempFolder> folder) {
  CO_RETURN_IF_ERROR(usable_);
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  if (!layers::IsDigest(digest)) co_return absl::InvalidArgumentError("it has no valid digest");
  auto sealed = std::make_shared<std::vector<NewLayer>>();
  sealed->push_back({absl::StrCat(folder->path(), "/", file), "", 0});
  CO_RETURN_IF_ERROR(co_await Seal(folder, sealed));
  const NewLayer layer = sealed->front();
  if (layer.digest != digest) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("what came as the layer ", digest, " has the digest ", layer.digest),
        "layer_damaged");
  }
  co_await StayToTheEnd();
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  // Pinned first: so it is never there without somebody who needs it.
  ImagePin pin = PinOf(owner);
  pin.layers.push_back(digest);
  CO_RETURN_IF_ERROR(co_await SavePin(std::move(pin)));
  std::function<absl::Status()> settle = [files = files_, layer] { return files.Settle({layer}); };
  CO_RETURN_IF_ERROR(co_await Change(kRecordTime, std::move(settle)));
  layers_[digest] = layer.size;
  co_return absl::OkStatus();
}

Task<absl::Status> ImageStore::Unpin(std::string owner) {
  co_await StayToTheEnd();
  CO_RETURN_IF_ERROR(usable_);
  CO_RETURN_IF_ERROR(CheckPinOwner(owner));
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  if (!pins_.contains(owner)) co_return absl::OkStatus();
  std::function<absl::Status()> remove = [files = files_, owner] { return files.RemovePin(owner); };
  CO_RETURN_IF_ERROR(co_await Change(kRecordTime, std::move(remove)));
  pins_.erase(owner);
  co_await Collect();
  co_return absl::OkStatus();
}

Task<absl::Status> ImageStore::Verify(std::string digest) {
  CO_RETURN_IF_ERROR(usable_);
  if (!Has(digest)) co_return LayerIsGone(digest);
  const StopOnDrop stop;
  std::function<absl::Status()> read = [files = files_, digest, stopped = stop.flag()] {
    ASSIGN_OR_RETURN(const std::string found, files.DigestNow(digest, *stopped));
    if (found == digest) return absl::OkStatus();
    return rpc::ErrorWithReason(
        absl::StatusCode::kDataLoss,
        absl::StrCat("the layer ", digest, " is damaged: its digest is ", found), "layer_damaged",
        "Remove the images that use it and import them again.");
  };
  // Not the store's own thread, which others wait for.
  auto worker = std::make_shared<BlockingWorker>(executor_);
  co_return co_await worker->Run(kLayerTime, kImagesDisk, std::move(read));
}

// With the mutex, or before anybody else has the store.
Task<void> ImageStore::Collect() {
  if (keep_all_) co_return;
  std::set<std::string> needed;
  for (const auto& [name, image] : images_) {
    for (const ImageLayer& layer : image.layers) needed.insert(layer.digest);
  }
  for (const auto& [owner, pin] : pins_) needed.insert(pin.layers.begin(), pin.layers.end());
  std::vector<std::string> useless;
  for (const auto& [digest, size] : layers_) {
    if (!needed.contains(digest)) useless.push_back(digest);
  }
  if (useless.empty()) co_return;
  auto gone = std::make_shared<std::vector<std::string>>();
  std::function<absl::Status()> remove = [files = files_, useless, gone] {
    *gone = files.RemoveLayers(useless);
    return absl::OkStatus();
  };
  if (!(co_await Change(kRecordTime, std::move(remove))).ok()) co_return;
  for (const std::string& digest : *gone) layers_.erase(digest);
}

}  // namespace ferry::vm
