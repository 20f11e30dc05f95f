#include "migration/controller/state_check.h"

#include <optional>

#include "absl/strings/str_cat.h"

namespace ferry::migration {
namespace {

void Add(const std::optional<StreamDigest>& digest, StateCheck& check) {
  if (!digest) {
    absl::StrAppend(&check.text, "?;");
    return;
  }
  check.bytes += digest->bytes;
  absl::StrAppend(&check.text, digest->bytes, ":", digest->ToHex(), ";");
}

}  // namespace

StateCheck CheckOfSent(const SessionConnection& connection) {
  StateCheck check;
  for (const uint16_t id : connection.channels()) Add(connection.SentDigest(id), check);
  return check;
}

StateCheck CheckOfReceived(const SessionConnection& connection) {
  StateCheck check;
  for (const uint16_t id : connection.channels()) Add(connection.ReceivedDigest(id), check);
  return check;
}

absl::Status CompareChecks(const StateCheck& sent, std::string_view voted) {
  if (voted.empty()) {
    return absl::DataLossError(
        "checksum_verification was asked for, but the destination's vote has no digest of the VM's "
        "state; use a newer ferryd there, or migrate without");
  }
  if (sent.bytes == 0 || voted != sent.text) {
    return absl::DataLossError(
        "the destination's digest of the VM's state differs from the source's; try again");
  }
  return absl::OkStatus();
}

}  // namespace ferry::migration
