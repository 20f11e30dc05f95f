#include "tools/ferryctl/progress.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

std::string Rate(uint64_t bytes_per_second) {
  return absl::StrCat(FormatSize(bytes_per_second), "/s");
}

std::string SlowedWrites(const v1::Progress& progress) {
  return absl::StrCat("disk writes slowed to ", Rate(progress.disk_write_limit()));
}

// How fast it goes and whether it will end: what is known of it, which may be nothing.
std::vector<std::string> Pace(const v1::Progress& progress, const char* dirty) {
  std::vector<std::string> parts;
  if (progress.has_bytes_per_second()) parts.push_back(Rate(progress.bytes_per_second()));
  if (progress.has_dirty_bytes_per_second()) {
    parts.push_back(absl::StrCat(dirty, " ", Rate(progress.dirty_bytes_per_second())));
  }
  if (progress.throttle_percent() > 0) {
    parts.push_back(absl::StrCat("guest slowed by ", progress.throttle_percent(), "%"));
  }
  if (progress.disk_write_limit() > 0) parts.push_back(SlowedWrites(progress));
  if (!progress.has_converging()) return parts;
  parts.push_back(progress.converging() ? "converging" : "not converging");
  if (progress.converging() && progress.has_eta_ms()) {
    parts.push_back(
        absl::StrCat("about ", FormatMs(static_cast<double>(progress.eta_ms())), " to go"));
  }
  return parts;
}

// How long the switch would take now.
std::string Blackout(const v1::Progress& progress) {
  if (!progress.has_expected_blackout_ms()) return "";
  return absl::StrCat(", blackout about ",
                      FormatMs(static_cast<double>(progress.expected_blackout_ms())));
}

// Memory does not move before that.
bool CopiesDisks(const v1::Progress& progress) {
  return progress.total_bytes() == 0 && progress.disk_total_bytes() > 0;
}

std::string CopyLine(const v1::Progress& progress) {
  std::string line = absl::StrCat("copying disks, ", FormatSize(progress.disk_done_bytes()), " of ",
                                  FormatSize(progress.disk_total_bytes()));
  if (progress.disk_write_limit() > 0) absl::StrAppend(&line, ", ", SlowedWrites(progress));
  return line;
}

const char* PhaseWords(v1::MigrationPhase phase) {
  switch (phase) {
    case v1::MIGRATION_PHASE_SETUP_DONE:
      return "set up";
    case v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS:
      return "memory is moving";
    case v1::MIGRATION_PHASE_BLACKOUT_STARTED:
      return "VM stopped for the switch";
    case v1::MIGRATION_PHASE_OFFLINE_DONE:
      return "state is complete at the destination";
    case v1::MIGRATION_PHASE_BLACKOUT_EXITED:
      return "VM runs again";
    case v1::MIGRATION_PHASE_DONE:
      return "done";
    case v1::MIGRATION_PHASE_RECOVERY_DONE:
      return "recovered";
    case v1::MIGRATION_PHASE_FAILED:
      return "failed";
    default:
      return "";
  }
}

}  // namespace

std::vector<std::string> ProgressLines(const v1::Progress& progress) {
  if (CopiesDisks(progress)) return {CopyLine(progress)};
  const std::string pace = absl::StrJoin(Pace(progress, "dirtied"), ", ");
  return {absl::StrCat("Pass ", progress.pass(), ", ", FormatSize(progress.remaining_bytes()),
                       " of ", FormatSize(progress.total_bytes()), " remaining, ",
                       FormatSize(progress.transferred_bytes()), " sent", Blackout(progress)),
          pace.empty() ? "its speed is not known yet" : pace};
}

std::string ProgressLine(const v1::Progress& progress) {
  if (CopiesDisks(progress)) return CopyLine(progress);
  std::vector<std::string> parts = Pace(progress, "dirty");
  parts.insert(parts.begin(),
               absl::StrCat("pass ", progress.pass(), ", remaining ",
                            FormatSize(progress.remaining_bytes()), Blackout(progress)));
  return absl::StrJoin(parts, ", ");
}

std::string PhaseText(const v1::Notification& notification) {
  if (notification.has_progress()) return "";
  std::string text =
      notification.origin() == v1::MIGRATION_ORIGIN_DESTINATION ? "destination: " : "source: ";
  absl::StrAppend(&text, PhaseWords(notification.phase()));
  if (notification.has_blackout_exited()) {
    absl::StrAppend(&text, " after ",
                    notification.blackout_exited().blackout_duration_milliseconds(), " ms");
  }
  if (!notification.message().empty()) absl::StrAppend(&text, ": ", notification.message());
  return text;
}

void ProgressView::Show(const v1::NotificationsResponse& response) {
  if (mode_ == ProgressMode::kJson) {
    std::fputs(ToJson(response, false).c_str(), out_);
    std::fflush(out_);
    return;
  }
  const v1::Notification& notification = response.notification();
  if (!notification.has_progress()) {
    Say(PhaseText(notification));
    return;
  }
  if (mode_ == ProgressMode::kTerminal) {
    Clear();
    for (const std::string& line : ProgressLines(notification.progress())) {
      std::fprintf(out_, "%s\n", line.c_str());
      ++drawn_;
    }
  } else {
    const auto now = std::chrono::steady_clock::now();
    if (last_line_ != std::chrono::steady_clock::time_point() &&
        now - last_line_ < std::chrono::seconds(1)) {
      return;
    }
    last_line_ = now;
    std::fprintf(out_, "%s\n", ProgressLine(notification.progress()).c_str());
  }
  std::fflush(out_);
}

void ProgressView::Say(const std::string& text) {
  if (mode_ == ProgressMode::kJson) return;
  Clear();
  std::fprintf(out_, "%s\n", text.c_str());
  std::fflush(out_);
}

void ProgressView::Warn(const std::string& text) {
  Clear();
  std::fflush(out_);
  std::fprintf(stderr, "%s\n", text.c_str());
}

void ProgressView::Clear() {
  // Up a line and erase it, for each that was drawn.
  for (; drawn_ > 0; --drawn_) std::fputs("\x1b[1A\x1b[2K", out_);
}

}  // namespace ferry::ctl
