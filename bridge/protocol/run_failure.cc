#include "bridge/protocol/run_failure.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
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

std::optional<RunFailure> RunFailureInWordsOfCrun(std::string_view line) {
  // crun's own words stand first: further on there are names that others have chosen.
  const absl::string_view text(line.data(), line.size());
  if (absl::StartsWith(text, "executable file `")) return RunFailure::kNoProgram;
  if (absl::StartsWith(text, "open executable")) return RunFailure::kCannotRun;
  if (!absl::StartsWith(text, "exec container process ")) return std::nullopt;
  const bool absent = absl::EndsWith(text, ": No such file or directory");
  return absent ? RunFailure::kNoProgram : RunFailure::kCannotRun;
}

}  // namespace ferry::bridge
