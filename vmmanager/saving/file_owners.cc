#include "vmmanager/saving/file_owners.h"

#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

// What a person would call a long chain, several times over.
constexpr size_t kMostFiles = 100;

struct OwnedFile {
  std::string vm;  // by its name
  std::string file;
  std::string format;
};

// The files on top, each of which may be over others.
std::vector<OwnedFile> FilesOfAll(const VmInventory& vms, const DiskOfVm& but) {
  std::vector<OwnedFile> owned;
  std::string left_out;
  for (const std::shared_ptr<UtilityVm>& vm : vms.List()) {
    if (vm->id() == but.vm_id && but.disk.empty()) continue;
    const CheckpointScene scene = vm->checkpoint_scene();
    for (const auto& [name, disk] : scene.disks) {
      const bool is_it = vm->id() == but.vm_id && name == but.disk;
      if (is_it) left_out = disk.disk.path;
      if (!is_it) owned.push_back({vm->name(), disk.disk.path, disk.disk.format});
    }
    for (const auto& [name, record] : scene.records) {
      for (const state::v1::CheckpointDisk& disk : record.disks()) {
        owned.push_back({vm->name(), disk.file(), disk.format()});
      }
    }
    // Of containers, as far as checkpoints know of them.
    for (const std::string& file : vm->FilesInUse()) {
      bool known = vm->id() == but.vm_id && file == left_out;
      for (const OwnedFile& one : owned) known = known || one.file == file;
      if (!known) owned.push_back({vm->name(), file, "qcow2"});
    }
  }
  return owned;
}

absl::Status IsInUse(const std::string& file, const OwnedFile& by) {
  const std::string alias = by.file == file ? "" : absl::StrCat(" as ", by.file);
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat(file, " is in use already, by VM ", by.vm, alias,
                   ": a disk or a checkpoint of it is in that file, or over it"),
      "file_in_use", absl::StrCat("See: ferryctl checkpoint list ", by.vm));
}

absl::Status CannotTell(const std::string& file, const OwnedFile& by, const absl::Status& why) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("it cannot be known whether a disk of VM ", by.vm,
                                           " lies over ", file, ": ", why.message()),
                              "chain_unknown", "Mend that, and try again.");
}

}  // namespace

Task<absl::Status> ReadDiskChain(OverlayFiles* overlays, std::shared_ptr<Chain> chain) {
  while (chain->back().format == "qcow2") {
    std::string each = chain->back().file;
    const auto image = co_await overlays->Examine(std::move(each), "qcow2");
    if (!image.ok()) {
      co_return absl::Status(image.status().code(),
                             absl::StrCat(chain->back().file, ": ", image.status().message()));
    }
    if (image->below.empty()) break;
    // What lies further down must not be overlooked.
    if (chain->size() >= kMostFiles) {
      co_return absl::ResourceExhaustedError(
          absl::StrCat(chain->front().file, " lies over ", kMostFiles, " files or more"));
    }
    // What a guest wrote into a raw disk must not be taken for a disk's head.
    const bool known = image->below_format == "qcow2" || image->below_format == "raw";
    chain->push_back({image->below, known ? image->below_format : ""});
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<FileIds>> IdentifyFiles(FileReads* reads, std::set<std::string> files) {
  std::function<absl::StatusOr<FileIds>()> look = [files]() -> absl::StatusOr<FileIds> {
    FileIds ids;
    for (const std::string& file : files) {
      struct stat found {};
      if (::stat(file.c_str(), &found) == 0) {
        ids[file] = {found.st_dev, found.st_ino};
      } else if (errno != ENOENT && errno != ENOTDIR) {
        return absl::FailedPreconditionError(
            absl::StrCat("cannot look at ", file, ": ", absl::ErrnoToStatus(errno, "").message()));
      }
    }
    return ids;
  };
  co_return co_await reads->Run<FileIds>("the files of disks", std::move(look));
}

bool AreSame(const FileIds& ids, const std::string& one, const std::string& other) {
  const auto its = ids.find(one);
  const auto others = ids.find(other);
  return its != ids.end() && others != ids.end() && its->second == others->second;
}

Task<absl::Status> CheckIsNobodys(const VmInventory* vms, std::string file, DiskOfVm but) {
  const std::vector<OwnedFile> owned = FilesOfAll(*vms, but);
  std::vector<OwnedFile> all;
  std::set<std::string> files = {file};
  std::set<std::string> read;  // with all that is below
  absl::Status unknown;        // the first of which not all could be read
  for (const OwnedFile& top : owned) {
    if (read.contains(top.file)) continue;
    auto chain = std::make_shared<Chain>(Chain{{top.file, top.format}});
    absl::Status whole = co_await ReadDiskChain(vms->deps().overlays, chain);
    // Where the format is not said it may be an overlay all the same.
    while (whole.ok() && chain->back().format.empty()) {
      chain->back().format = "qcow2";
      const absl::Status more = co_await ReadDiskChain(vms->deps().overlays, chain);
      if (absl::IsResourceExhausted(more)) whole = more;
      if (!more.ok()) break;
    }
    // One that is not there is over nothing.
    const bool known = whole.ok() || absl::IsNotFound(whole);
    if (!known && unknown.ok()) unknown = CannotTell(file, top, whole);
    for (const ChainFile& each : *chain) {
      files.insert(each.file);
      read.insert(each.file);
      all.push_back({top.vm, each.file, each.format});
    }
  }
  FileReads* reads = &vms->deps().reads;
  CO_ASSIGN_OR_RETURN(const FileIds ids, co_await IdentifyFiles(reads, std::move(files)));
  for (const OwnedFile& one : all) {
    if (one.file == file || AreSame(ids, one.file, file)) co_return IsInUse(file, one);
  }
  co_return unknown;
}

}  // namespace ferry::vm
