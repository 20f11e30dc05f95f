#pragma once

#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
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
    files[wish.file] = wish.below;
    co_return absl::OkStatus();
  }
  Task<absl::Status> Merge(std::string overlay) override {
    if (!fails.ok()) co_return fails;
    if (before_merge) co_await before_merge();
    merged.insert(overlay);
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
    files.erase(file);
    co_return absl::OkStatus();
  }
  Task<absl::Status> RemoveDraft(OverlayWish wish) override {
    if (files.contains(wish.file) && files[wish.file] == wish.below) files.erase(wish.file);
    co_return absl::OkStatus();
  }

  std::map<std::string, std::string> files;  // and what each is over
  std::set<std::string> merged;
  std::set<std::string> checked;
  absl::Status lies_elsewhere;  // what is said of those
  absl::Status fails;
  std::function<Task<void>()> before_merge;
};

}  // namespace ferry::vm
