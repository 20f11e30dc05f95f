#include "migration/session/session_outcome.h"

#include <algorithm>
#include <cctype>

#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

constexpr std::string_view kCancelledWord = "cancelled";
constexpr std::string_view kFailedWord = "failed";
constexpr std::string_view kSourceWord = "source";
constexpr std::string_view kDestinationWord = "destination";
constexpr size_t kMaxWord = 64;

bool IsWord(std::string_view text) {
  return !text.empty() && text.size() <= kMaxWord &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

// The next of the words that a space or the bracket ends.
std::string_view TakeWord(std::string_view& rest) {
  const size_t end = std::min(rest.find(' '), rest.size());
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return word;
}

}  // namespace

EndReason CalledOff(v1::MigrationOrigin by, const std::string& message) {
  return {v1::SESSION_OUTCOME_CANCELLED, by, DefaultReason(v1::SESSION_OUTCOME_CANCELLED),
          message.empty() ? "cancelled" : message};
}

std::string ToDetail(const EndReason& reason) {
  const bool cancelled = reason.outcome == v1::SESSION_OUTCOME_CANCELLED;
  const bool source = reason.began_at == v1::MIGRATION_ORIGIN_SOURCE;
  return StrCat(
      "[", cancelled ? kCancelledWord : kFailedWord, " ", source ? kSourceWord : kDestinationWord,
      " ", IsWord(reason.word) ? reason.word : DefaultReason(reason.outcome), "] ", reason.message);
}

EndReason FromDetail(std::string_view detail, v1::MigrationOrigin writer) {
  EndReason plain{v1::SESSION_OUTCOME_FAILED, writer, DefaultReason(v1::SESSION_OUTCOME_FAILED),
                  std::string(detail)};
  const size_t end = detail.find("] ");
  if (detail.empty() || detail.front() != '[' || end == std::string_view::npos) return plain;
  std::string_view head = detail.substr(1, end - 1);
  const std::string_view outcome = TakeWord(head);
  const std::string_view side = TakeWord(head);
  if ((outcome != kCancelledWord && outcome != kFailedWord) ||
      (side != kSourceWord && side != kDestinationWord) || !IsWord(head)) {
    return plain;
  }
  EndReason reason;
  if (outcome == kCancelledWord) reason.outcome = v1::SESSION_OUTCOME_CANCELLED;
  reason.began_at =
      side == kSourceWord ? v1::MIGRATION_ORIGIN_SOURCE : v1::MIGRATION_ORIGIN_DESTINATION;
  reason.word = std::string(head);
  reason.message = std::string(detail.substr(end + 2));
  return reason;
}

bool IsGuestInitiated(const EndReason& reason) {
  return reason.word == kGuestShutdown || reason.word == kGuestReset;
}

v1::MigrationPhaseState PhaseStateOf(const EndReason& reason, v1::MigrationOrigin teller) {
  if (IsGuestInitiated(reason) && teller == v1::MIGRATION_ORIGIN_SOURCE) {
    return v1::MIGRATION_PHASE_STATE_GUEST_INITIATED_CANCELLATION;
  }
  if (reason.outcome == v1::SESSION_OUTCOME_CANCELLED) {
    return v1::MIGRATION_PHASE_STATE_CANCELLED;
  }
  return reason.began_at == v1::MIGRATION_ORIGIN_DESTINATION
             ? v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED
             : v1::MIGRATION_PHASE_STATE_SOURCE_FAILED;
}

v1::SessionOutcome OutcomeOf(v1::SessionState state) {
  switch (state) {
    case v1::SESSION_STATE_CANCELLING:
    case v1::SESSION_STATE_CANCELLED:
      return v1::SESSION_OUTCOME_CANCELLED;
    case v1::SESSION_STATE_FAILED:
      return v1::SESSION_OUTCOME_FAILED;
    default:
      return v1::SESSION_OUTCOME_UNSPECIFIED;
  }
}

std::string DefaultReason(v1::SessionOutcome outcome) {
  switch (outcome) {
    case v1::SESSION_OUTCOME_CANCELLED:
      return "cancelled";
    case v1::SESSION_OUTCOME_FAILED:
      return "failed";
    case v1::SESSION_OUTCOME_UNKNOWN:
      return "daemon_stopped";
    default:
      return "";
  }
}

}  // namespace ferry::migration
