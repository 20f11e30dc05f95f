#include "vmmanager/saving/overlay_drafts.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/images/durable_file.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

constexpr char kNote[] = ".drafts";
constexpr size_t kMaxNote = size_t{1} << 20;

// Of a disk that is over a file the generation is that file's.
OverlayWish WishOf(const CheckpointDisk& disk) {
  return {.below = disk.file(),
          .format = disk.format(),
          .file = disk.overlay(),
          .inode = disk.file().empty() ? disk.generation().inode() : 0};
}

// What a note says of copies: they are over nothing.
CheckpointRecord AsCopies(const CheckpointRecord& record) {
  CheckpointRecord copies;
  for (const CheckpointDisk& disk : record.disks()) {
    CheckpointDisk* copy = copies.add_disks();
    copy->set_overlay(disk.overlay());
    if (disk.has_generation()) *copy->mutable_generation() = disk.generation();
  }
  return copies;
}

}  // namespace

Task<absl::Status> OverlayDrafts::Choose(std::shared_ptr<Record> record,
                                         std::function<bool(const std::string&)> is_named) {
  for (CheckpointDisk& disk : *record->mutable_disks()) {
    if (disk.overlay_kept()) continue;
    std::string wanted = disk.overlay();
    CO_ASSIGN_OR_RETURN(const std::string free, co_await overlays_.FreeName(wanted));
    if (is_named(disk.name()) && free != wanted) {
      co_return absl::AlreadyExistsError(absl::StrCat(wanted, " exists already"));
    }
    disk.set_overlay(free);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> OverlayDrafts::NewNote(std::string vm_id) {
  CO_ASSIGN_OR_RETURN(const std::string file, co_await files_.New(std::move(vm_id)));
  co_return absl::StrCat(file, kNote);
}

Task<absl::Status> OverlayDrafts::Write(std::string note, Record drafts) {
  KeptFiles::Work write = [note, text = drafts.SerializeAsString()] {
    return WriteDurably(note, text, std::filesystem::path(note).parent_path());
  };
  co_return co_await files_.Run("noting files", std::move(write));
}

Task<absl::StatusOr<std::string>> OverlayDrafts::Note(std::string vm_id, Record to_go) {
  CO_ASSIGN_OR_RETURN(std::string note, co_await NewNote(std::move(vm_id)));
  CO_RETURN_IF_ERROR(co_await Write(note, std::move(to_go)));
  co_return note;
}

Task<absl::StatusOr<std::string>> OverlayDrafts::Make(
    std::string vm_id, std::shared_ptr<Record> record,
    std::function<bool(const std::string&)> is_named, Record to_go) {
  CO_RETURN_IF_ERROR(co_await Choose(record, std::move(is_named)));
  CO_ASSIGN_OR_RETURN(std::string note, co_await NewNote(std::move(vm_id)));
  Record drafts = std::move(to_go);
  Record wanted;
  for (const CheckpointDisk& disk : record->disks()) {
    if (!disk.overlay_kept()) *wanted.add_disks() = disk;
  }
  drafts.mutable_disks()->MergeFrom(wanted.disks());
  CO_RETURN_IF_ERROR(co_await Write(note, std::move(drafts)));
  Record made;
  for (const CheckpointDisk& disk : wanted.disks()) {
    OverlayWish wish = WishOf(disk);
    const absl::Status one = co_await overlays_.Make(std::move(wish));
    if (!one.ok()) {
      co_await Remove(std::move(made), std::move(note));
      co_return one;
    }
    *made.add_disks() = disk;
  }
  co_return note;
}

Task<absl::StatusOr<std::string>> OverlayDrafts::Reserve(
    std::string vm_id, std::shared_ptr<Record> record,
    std::function<bool(const std::string&)> is_named) {
  CO_RETURN_IF_ERROR(co_await Choose(record, std::move(is_named)));
  CO_ASSIGN_OR_RETURN(std::string note, co_await NewNote(std::move(vm_id)));
  Record named = AsCopies(*record);
  CO_RETURN_IF_ERROR(co_await Write(note, std::move(named)));
  Record made;
  absl::Status taken;
  for (CheckpointDisk& disk : *record->mutable_disks()) {
    std::string file = disk.overlay();
    std::string like = disk.file();
    const auto inode = co_await overlays_.Reserve(std::move(file), std::move(like));
    taken = inode.status();
    if (!taken.ok()) break;
    disk.mutable_generation()->set_inode(*inode);
    *made.add_disks() = disk;
  }
  // From here on what is in them is ours wherever it is found.
  Record reserved = AsCopies(*record);
  if (taken.ok()) taken = co_await Write(note, std::move(reserved));
  if (taken.ok()) co_return note;
  co_await RemoveCopies(std::move(made), std::move(note));
  co_return taken;
}

Task<void> OverlayDrafts::Forget(std::string note) { co_await files_.Remove(std::move(note)); }

// The next start tries again what could not be removed.
Task<void> OverlayDrafts::Remove(Record record, std::string note) {
  bool gone = true;
  for (const CheckpointDisk& disk : record.disks()) {
    if (disk.overlay_kept()) continue;
    const absl::Status removed = co_await overlays_.Remove(disk.overlay());
    if (removed.ok()) continue;
    spdlog::warn("{}: {}", disk.overlay(), removed.ToString());
    gone = false;
  }
  if (gone) co_await Forget(std::move(note));
}

Task<void> OverlayDrafts::RemoveCopies(Record record, std::string note) {
  bool gone = true;
  const Record copies = AsCopies(record);
  for (const CheckpointDisk& disk : copies.disks()) {
    // While it was filled its user may have put another file under the name.
    OverlayWish wish = WishOf(disk);
    const absl::Status removed = co_await overlays_.RemoveDraft(std::move(wish));
    if (removed.ok()) continue;
    spdlog::warn("{}: {}", disk.overlay(), removed.ToString());
    gone = false;
  }
  if (gone) co_await Forget(std::move(note));
}

Task<void> OverlayDrafts::Sweep(std::set<std::string> used, std::set<std::string> known,
                                std::set<std::string> unclear) {
  auto notes = std::make_shared<std::vector<std::pair<std::string, std::string>>>();
  KeptFiles::Work read = [folder = files_.folder(), unclear, notes]() -> absl::Status {
    namespace fs = std::filesystem;
    std::error_code ignored;
    for (const auto& file : fs::recursive_directory_iterator(folder, ignored)) {
      const bool spared = unclear.contains(file.path().parent_path());
      if (file.path().extension() != kNote || spared) continue;
      auto text = ReadWhole(file.path(), kMaxNote);
      if (text.ok()) notes->emplace_back(file.path(), *std::move(text));
    }
    return absl::OkStatus();
  };
  const absl::Status all = co_await files_.Run("reading notes", std::move(read));
  if (!all.ok()) spdlog::warn("overlays: {}", all.ToString());
  for (const auto& [note, text] : *notes) {
    Record drafts;
    if (!drafts.ParseFromString(text)) drafts.Clear();
    const bool is_known = known.contains(std::filesystem::path(note).parent_path());
    for (const CheckpointDisk& disk : drafts.disks()) {
      const bool is_copy = disk.file().empty();
      if (used.contains(disk.overlay())) continue;
      if (!is_known && !is_copy) {
        spdlog::warn("{}: stays, for its VM is not here; remove it if no other host uses it",
                     disk.overlay());
        continue;
      }
      OverlayWish wish = WishOf(disk);
      const absl::Status removed = co_await overlays_.RemoveDraft(std::move(wish));
      if (!removed.ok()) spdlog::warn("{}: {}", disk.overlay(), removed.ToString());
    }
    co_await Forget(note);
  }
}

}  // namespace ferry::vm
