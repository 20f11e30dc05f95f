#pragma once

#include <functional>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/sandbox/overlay_files.h"

namespace ferry::vm {

// Overlays that are only names. Members are public: tests script them.
class FakeOverlayFiles final : public OverlayFiles {
 public:
  Task<absl::StatusOr<std::string>> FreeName(std::string file) override {
    std::string name = file;
    for (int i = 2; files.contains(name); ++i) name = absl::StrCat(file, "-", i);
    co_return name;
  }
  Task<absl::Status> Make(OverlayWish wish) override {
    if (!fails.ok()) co_return fails;
    if (files.contains(wish.file)) co_return absl::AlreadyExistsError(wish.file);
    if (before_make) co_await before_make();
    if (missing.contains(wish.below)) co_return absl::NotFoundError("cannot open " + wish.below);
    files[wish.file] = wish.below;
    co_return absl::OkStatus();
  }
  Task<absl::Status> Merge(std::string overlay) override {
    if (!fails.ok()) co_return fails;
    if (before_merge) co_await before_merge();
    merged.insert(overlay);
    co_return absl::OkStatus();
  }
  Task<absl::Status> Create(NewDisk disk) override {
    if (!fails.ok()) co_return fails;
    if (images.contains(disk.file)) co_return absl::AlreadyExistsError(disk.file);
    images[disk.file] = {.format = disk.format, .bytes = disk.bytes, .below = disk.below};
    co_return absl::OkStatus();
  }
  Task<absl::Status> Shape(DiskShape shape) override {
    if (!fails.ok()) co_return fails;
    CO_RETURN_IF_ERROR(co_await CheckReserved(shape.file, shape.inode));
    images[shape.file] = {.format = shape.format, .bytes = shape.bytes, .below = shape.below};
    co_return absl::OkStatus();
  }
  Task<absl::Status> Resize(std::string file, std::string, uint64_t bytes) override {
    if (!fails.ok()) co_return fails;
    images[file].bytes = bytes;
    co_return absl::OkStatus();
  }
  Task<absl::Status> CheckIsThere(std::string file) override {
    if (before_look) co_await before_look();
    if (missing.contains(file)) co_return absl::NotFoundError("cannot look at " + file);
    co_return absl::OkStatus();
  }
  Task<absl::Status> PutOver(std::string overlay, std::string below, std::string) override {
    if (!fails.ok()) co_return fails;
    files[overlay] = below;
    co_return absl::OkStatus();
  }
  Task<absl::Status> CheckLiesOver(std::string overlay, std::string) override {
    checked.insert(overlay);
    co_return lies_elsewhere;
  }
  Task<absl::Status> Remove(std::string file) override {
    if (before_remove) co_await before_remove();
    files.erase(file);
    co_return absl::OkStatus();
  }
  Task<absl::Status> RemoveDraft(OverlayWish wish) override {
    if (!remove_fails.ok()) co_return remove_fails;
    const auto found = files.find(wish.file);
    if (found == files.end()) co_return absl::OkStatus();
    const bool is_draft = !wish.below.empty() && found->second == wish.below;
    const bool is_copy = wish.inode != 0 && inodes[wish.file] == wish.inode;
    if (is_draft || is_copy) files.erase(found);
    co_return absl::OkStatus();
  }
  Task<absl::Status> CheckReserved(std::string file, uint64_t inode) override {
    if (files.contains(file) && inodes[file] == inode) co_return absl::OkStatus();
    co_return absl::AbortedError(file + " is another file now");
  }
  Task<absl::Status> BringToDisk(std::string file, uint64_t inode) override {
    co_return co_await CheckReserved(std::move(file), inode);
  }
  Task<absl::StatusOr<uint64_t>> Measure(std::string file, std::string /*format*/) override {
    co_return measured[file];
  }
  Task<absl::StatusOr<Room>> RoomFor(std::string /*file*/) override { co_return room; }
  Task<absl::StatusOr<uint64_t>> Reserve(std::string file, std::string /*like*/) override {
    if (!fails.ok()) co_return fails;
    if (files.contains(file)) co_return absl::AlreadyExistsError(file + " exists already");
    files[file] = "";
    inodes[file] = ++last_inode;
    co_return last_inode;
  }
  Task<absl::Status> Copy(DiskCopy copy) override {
    if (!fails.ok()) co_return fails;
    if (before_copy) CO_RETURN_IF_ERROR(co_await before_copy(copy.to));
    if (copy.progress) copy.progress(1.0);
    copied[copy.to] = copy.from;
    images[copy.to] = images[copy.from];
    co_return absl::OkStatus();
  }
  Task<absl::StatusOr<DiskImage>> Examine(std::string file, std::string format) override {
    if (before_examine) co_await before_examine();
    const auto image = images.find(file);
    if (image == images.end()) co_return absl::NotFoundError("cannot look at " + file);
    if (image->second.format != format) {
      co_return absl::FailedPreconditionError(file + " is not " + format);
    }
    co_return image->second;
  }

  std::map<std::string, std::string> files;  // and what each is over
  std::set<std::string> missing;             // that CheckIsThere() does not find
  std::set<std::string> merged;
  std::set<std::string> checked;
  absl::Status lies_elsewhere;  // what is said of those
  absl::Status fails;
  absl::Status remove_fails;
  std::function<Task<void>()> before_make;
  std::function<Task<void>()> before_merge;
  std::function<Task<void>()> before_look;
  std::function<Task<void>()> before_remove;
  std::function<Task<void>()> before_examine;
  std::map<std::string, uint64_t> inodes;  // of those that were reserved
  uint64_t last_inode = 0;
  std::map<std::string, std::string> copied;  // and of what each is a copy
  std::function<Task<absl::Status>(std::string to)> before_copy;
  std::map<std::string, uint64_t> measured;  // how large copies become
  Room room{.device = 1, .bytes = std::numeric_limits<uint64_t>::max()};
  std::map<std::string, DiskImage> images;  // as Examine() sees them
};

}  // namespace ferry::vm
