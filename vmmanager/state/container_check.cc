#include "vmmanager/state/container_check.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/schema/attachments.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::ContainerDisk;
using state::v1::ContainerLayer;
using state::v1::ContainerRecord;

constexpr int kMaxContainers = 256;
constexpr int kMaxLayers = 64;
constexpr size_t kMaxText = 4096;
constexpr size_t kMaxBlob = 256 * 1024;
constexpr size_t kIdDigits = 64;
constexpr std::string_view kDigestPrefix = "sha256:";

absl::Status Need(bool good, const std::string& container, std::string_view problem) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the saved state is not valid: container ", container, ": ", problem));
}

bool IsHex(std::string_view text) {
  return text.size() == kIdDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsDigest(std::string_view text) {
  return text.substr(0, kDigestPrefix.size()) == kDigestPrefix &&
         IsHex(text.substr(kDigestPrefix.size()));
}

using Place = std::pair<uint32_t, uint32_t>;
Place PlaceOf(const ContainerDisk& disk) { return {disk.controller(), disk.lun()}; }

const schema::Attachment* Find(const schema::ComputeSystem& document, const ContainerDisk& disk) {
  return schema::FindAttachment(document, StrCat(disk.controller()), StrCat(disk.lun()));
}

absl::Status CheckRecord(const ContainerRecord& record, const std::string& vm_id) {
  const std::string& id = record.container_id();
  if (!IsHex(id)) {
    return absl::InvalidArgumentError("the saved state is not valid: a container has no proper id");
  }
  // Whoever sends it must not make it another VM's.
  RETURN_IF_ERROR(Need(record.vm_id() == vm_id, id, "it is in another VM"));
  const std::string& file = record.scratch_file();
  RETURN_IF_ERROR(Need(file.empty() || file[0] == '/', id, "its scratch disk has no proper path"));
  RETURN_IF_ERROR(Need(IsHex(GuestIdOf(record)), id, "its guest knows it by no proper id"));
  const std::string& sandbox = record.sandbox_id();
  RETURN_IF_ERROR(Need(sandbox.empty() || IsHex(sandbox), id, "its pod has no proper id"));
  const bool small = record.spec().size() <= kMaxBlob && record.oci_process().size() <= kMaxBlob;
  RETURN_IF_ERROR(Need(small, id, "its description is too large"));
  for (const std::string* text :
       {&record.image_id(), &record.stop_signal(), &record.scratch_file(), &record.sandbox_id(),
        &record.request_id(), &record.scratch_proof()}) {
    RETURN_IF_ERROR(Need(text->size() <= kMaxText, id, "a text in it is too long"));
  }
  for (const auto* output : {&record.stdout(), &record.stderr()}) {
    const bool fits = output->bytes().size() <= kMaxSpoolBytes &&
                      output->start() <= UINT64_MAX - output->bytes().size();
    RETURN_IF_ERROR(Need(fits, id, "it has more output than can be"));
  }
  RETURN_IF_ERROR(Need(record.layers_size() <= kMaxLayers, id, "it has too many layers"));
  for (const ContainerLayer& layer : record.layers()) {
    RETURN_IF_ERROR(Need(IsDigest(layer.digest()), id, "a layer has no proper digest"));
  }
  const bool carried = record.stage() == state::v1::CONTAINER_STAGE_CREATED ||
                       record.stage() == state::v1::CONTAINER_STAGE_RUNNING ||
                       record.stage() == state::v1::CONTAINER_STAGE_PAUSED ||
                       record.stage() == state::v1::CONTAINER_STAGE_STOPPED;
  return Need(carried, id, "it is in no state that can be carried over");
}

// What does not change while a container moves.
std::string Substance(ContainerRecord record) {
  for (ContainerLayer& layer : *record.mutable_layers()) layer.clear_bytes();
  record.clear_scratch_proof();
  record.clear_spec();  // its limits may change
  record.clear_stage();
  record.clear_process_id();
  record.clear_stdout_port();
  record.clear_stderr_port();
  record.clear_stdout();
  record.clear_stderr();
  record.clear_exit();
  record.clear_started_unix_ms();
  record.clear_stopped_unix_ms();
  return record.SerializeAsString();
}

}  // namespace

const std::string& GuestIdOf(const ContainerRecord& record) {
  return record.guest_id().empty() ? record.container_id() : record.guest_id();
}

absl::Status CheckContainers(const state::v1::VmPayload& vm,
                             const schema::ComputeSystem& document) {
  if (vm.containers_size() > kMaxContainers) {
    return absl::InvalidArgumentError("the saved state is not valid: it has too many containers");
  }
  std::set<std::string> ids;
  std::set<std::string> guest_ids;
  std::set<std::string> files;
  std::map<Place, std::string> holds;  // a layer's digest, or whose scratch it is
  for (const ContainerRecord& record : vm.containers()) {
    RETURN_IF_ERROR(CheckRecord(record, vm.vm_id()));
    const std::string& id = record.container_id();
    const bool is_one = ids.insert(id).second && guest_ids.insert(GuestIdOf(record)).second;
    RETURN_IF_ERROR(Need(is_one, id, "it is there twice"));
    const std::string& file = record.scratch_file();
    RETURN_IF_ERROR(
        Need(file.empty() || files.insert(file).second, id, "its scratch disk is another's, too"));
    for (const ContainerLayer& layer : record.layers()) {
      if (!layer.has_disk()) continue;
      const schema::Attachment* disk = Find(document, layer.disk());
      RETURN_IF_ERROR(
          Need(disk != nullptr && disk->read_only, id, "a layer is no disk of the machine"));
      // A layer's bytes are its source's choice: nothing in them may be taken for a format.
      RETURN_IF_ERROR(Need(disk->format == "raw", id, "a layer is not taken as it is"));
      const auto [place, is_new] = holds.emplace(PlaceOf(layer.disk()), layer.digest());
      RETURN_IF_ERROR(Need(is_new || place->second == layer.digest(), id,
                           "two different layers are the same disk"));
    }
    if (!record.has_scratch_disk()) continue;
    const schema::Attachment* disk = Find(document, record.scratch_disk());
    const bool is_scratch = disk != nullptr && !disk->read_only && disk->format == "qcow2";
    RETURN_IF_ERROR(Need(is_scratch && !record.scratch_file().empty(), id,
                         "its scratch disk is no disk of the machine"));
    RETURN_IF_ERROR(Need(holds.emplace(PlaceOf(record.scratch_disk()), id).second, id,
                         "its scratch disk is another's, too"));
  }
  for (const ContainerRecord& record : vm.containers()) {
    const std::string& id = record.container_id();
    const bool is_its_own = GuestIdOf(record) == id || !guest_ids.contains(id);
    RETURN_IF_ERROR(Need(is_its_own, id, "its guest knows another one by its id"));
  }
  return absl::OkStatus();
}

absl::Status CheckSameContainers(const state::v1::VmPayload& plan,
                                 const std::vector<ContainerRecord>& cut) {
  std::map<std::string, std::string> planned;
  for (const ContainerRecord& record : plan.containers()) {
    planned[record.container_id()] = Substance(record);
  }
  for (const ContainerRecord& record : cut) {
    RETURN_IF_ERROR(CheckRecord(record, plan.vm_id()));
    const auto found = planned.find(record.container_id());
    RETURN_IF_ERROR(Need(found != planned.end() && found->second == Substance(record),
                         record.container_id(), "the cut has another one than the plan"));
    planned.erase(found);
  }
  if (planned.empty()) return absl::OkStatus();
  return Need(false, planned.begin()->first, "the cut does not have it");
}

}  // namespace ferry::vm
