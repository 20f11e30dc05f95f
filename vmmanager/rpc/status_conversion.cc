#include "vmmanager/rpc/status_conversion.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "ferry/v1/error.pb.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::rpc {
namespace {

// Status and details travel in HTTP/2 trailers, which peers bound (8 KiB by default).
constexpr size_t kMaxMessageBytes = 2048;
constexpr size_t kMaxDetailsBytes = 4096;

// It may quote a guest, whose bytes need not be UTF-8; details that are not cannot be read.
std::string Shortened(absl::string_view message) {
  const std::string text = Printable(message, kMaxMessageBytes);
  return message.size() <= kMaxMessageBytes ? text : text + "...";
}

// With a reason it is the daemon's own answer; a broken connection gives the same codes without.
absl::Status WithReason(const absl::Status& status) {
  v1::ErrorInfo info = GetErrorInfo(status).value_or(v1::ErrorInfo());
  if (!info.reason().empty()) return status;
  info.set_reason(absl::AsciiStrToLower(absl::StatusCodeToString(status.code())));
  return WithErrorInfo(status, info);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& given) {
  if (given.ok()) return grpc::Status::OK;
  const absl::Status status = WithReason(given);
  const std::string message = Shortened(status.message());
  v1::RichStatus rich;
  rich.set_code(static_cast<int>(status.code()));
  status.ForEachPayload([&rich](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any* detail = rich.add_details();
    detail->set_type_url(std::string(type_url));
    detail->set_value(std::string(payload));
  });
  std::string details;
  if (rich.details_size() > 0) {
    rich.set_message(message);
    details = rich.SerializeAsString();
    if (details.size() > kMaxDetailsBytes) details.clear();
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message, details);
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  v1::RichStatus rich;
  if (!status.error_details().empty() && rich.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : rich.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

}  // namespace ferry::rpc
