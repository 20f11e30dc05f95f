#include "bridge/protocol/run_failure.h"

#include "absl/strings/cord.h"
#include "bridge/protocol/message_types.h"

namespace ferry::bridge {
namespace {

constexpr char kRunFailureUrl[] = "ferry/run-failure";
constexpr char kNoProgramWord[] = "no_program";
constexpr char kCannotRunWord[] = "cannot_run";

}  // namespace

absl::Status WithRunFailure(absl::Status status, RunFailure failure) {
  const char* word = failure == RunFailure::kNoProgram ? kNoProgramWord : kCannotRunWord;
  status.SetPayload(kRunFailureUrl, absl::Cord(word));
  return status;
}

std::optional<RunFailure> RunFailureOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRunFailureUrl);
  if (!payload.has_value()) return std::nullopt;
  return *payload == kNoProgramWord ? RunFailure::kNoProgram : RunFailure::kCannotRun;
}

uint32_t ToHresult(RunFailure failure) {
  return failure == RunFailure::kNoProgram ? kHresultNoProgram : kHresultCannotRun;
}

std::optional<RunFailure> RunFailureOf(uint32_t hresult) {
  if (hresult == kHresultNoProgram) return RunFailure::kNoProgram;
  if (hresult == kHresultCannotRun) return RunFailure::kCannotRun;
  return std::nullopt;
}

}  // namespace ferry::bridge
