#include "vmmanager/rpc/job_error.h"

#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::rpc {
namespace {

constexpr size_t kMaxMessage = 4096;

}  // namespace

v1::JobError ToJobError(const absl::Status& status) {
  v1::JobError error;
  error.set_code(static_cast<uint32_t>(status.code()));
  // It may quote a guest, and has to be UTF-8.
  error.set_message(Printable(status.message(), kMaxMessage));
  if (auto info = GetErrorInfo(status)) *error.mutable_info() = *std::move(info);
  return error;
}

absl::Status FromJobError(const v1::JobError& error) {
  const auto last = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  const auto code = error.code() <= last ? static_cast<absl::StatusCode>(error.code())
                                         : absl::StatusCode::kUnknown;
  absl::Status status(code, error.message());
  return error.has_info() ? WithErrorInfo(std::move(status), error.info()) : status;
}

}  // namespace ferry::rpc
