#include "vmmanager/rpc/error_info.h"

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"

namespace ferry::rpc {
namespace {

constexpr char kMoved[] = "vm_moved";

}  // namespace

absl::Status WithErrorInfo(absl::Status status, const v1::ErrorInfo& info) {
  status.SetPayload(kErrorInfoTypeUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

std::optional<v1::ErrorInfo> GetErrorInfo(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoTypeUrl);
  if (!payload) return std::nullopt;
  v1::ErrorInfo info;
  if (!info.ParseFromString(std::string(*payload))) return std::nullopt;
  return info;
}

absl::Status ErrorWithReason(absl::StatusCode code, absl::string_view message,
                             absl::string_view reason, absl::string_view next_step) {
  v1::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_next_step(std::string(next_step));
  return WithErrorInfo(absl::Status(code, message), info);
}

absl::Status Reworded(const absl::Status& status, absl::StatusCode code,
                      absl::string_view message) {
  absl::Status told(code, message);
  status.ForEachPayload([&told](absl::string_view type_url, const absl::Cord& payload) {
    told.SetPayload(type_url, payload);
  });
  return told;
}

absl::Status ErrorOfMove(absl::StatusCode code, absl::string_view message,
                         absl::string_view destination) {
  v1::ErrorInfo info;
  info.set_reason(kMoved);
  info.set_vm_location(std::string(destination));
  return WithErrorInfo(absl::Status(code, message), info);
}

std::string MovedTo(const absl::Status& status) {
  const v1::ErrorInfo info = GetErrorInfo(status).value_or(v1::ErrorInfo());
  return info.reason() == kMoved ? info.vm_location() : "";
}

std::string NextStepOf(const absl::Status& status) {
  return GetErrorInfo(status).value_or(v1::ErrorInfo()).next_step();
}

std::string ReasonOf(const absl::Status& status) {
  if (auto info = GetErrorInfo(status); info && !info->reason().empty()) return info->reason();
  return absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
}

}  // namespace ferry::rpc
