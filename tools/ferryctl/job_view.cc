#include "tools/ferryctl/job_view.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::ctl {
namespace {

constexpr std::chrono::seconds kLineInterval(1);

std::string LowerWord(const std::string& enum_name, absl::string_view prefix) {
  return absl::AsciiStrToLower(enum_name.substr(prefix.size()));
}

std::string JobField(absl::string_view name, const std::string& value) {
  return absl::StrFormat("%-16s %s\n", absl::StrCat(name, ":"),
                         value.empty() ? "-" : PrintableLines(value));
}

bool HasEnded(const v1::Job& job) { return job.ended_unix_ms() != 0; }

std::string Counted(uint64_t count, v1::JobUnit unit) {
  return unit == v1::JOB_UNIT_BYTES ? FormatSize(count) : absl::StrCat(count);
}

// "25%", or what is known in its place.
std::string ShortProgress(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  if (HasEnded(job)) return "-";
  if (progress.unit() == v1::JOB_UNIT_UNSPECIFIED || (progress.total() | progress.done()) == 0) {
    return progress.phase().empty() ? "-" : Printable(progress.phase());
  }
  if (progress.total() == 0) return Counted(progress.done(), progress.unit());
  const double share = static_cast<double>(std::min(progress.done(), progress.total())) /
                       static_cast<double>(progress.total());
  return absl::StrFormat("%d%%", static_cast<int>(share * 100));
}

std::string OfVm(const v1::Job& job) {
  if (job.vm_id().empty() && job.vm_name().empty()) return "";
  return job.vm_id().empty() ? job.vm_name() : absl::StrCat(job.vm_name(), " (", job.vm_id(), ")");
}

}  // namespace

std::string JobStateName(v1::JobState state) {
  if (!v1::JobState_IsValid(state)) return "unknown";
  return LowerWord(v1::JobState_Name(state), "JOB_STATE_");
}

std::string JobKindName(v1::JobKind kind) {
  if (!v1::JobKind_IsValid(kind)) return "unknown";
  return LowerWord(v1::JobKind_Name(kind), "JOB_KIND_");
}

std::string JobTable(const v1::ListJobsResponse& response) {
  Table table({"ID", "KIND", "VM", "STATE", "PROGRESS", "STARTED", "WHAT"});
  for (const v1::Job& job : response.jobs()) {
    table.Add({Printable(job.id()), JobKindName(job.kind()),
               job.vm_name().empty() ? "-" : Printable(job.vm_name()), JobStateName(job.state()),
               ShortProgress(job), FormatTime(job.started_unix_ms()),
               job.what().empty() ? "-" : Printable(job.what())});
  }
  return table.ToString();
}

std::string JobDetails(const v1::Job& job) {
  std::string text =
      absl::StrCat(JobField("Job", job.id()), JobField("Kind", JobKindName(job.kind())),
                   JobField("VM", OfVm(job)), JobField("What", job.what()),
                   JobField("State", JobStateName(job.state())),
                   JobField("Started", FormatTime(job.started_unix_ms())),
                   JobField("Ended", FormatTime(job.ended_unix_ms())));
  if (!HasEnded(job)) {
    absl::StrAppend(&text, JobField("Progress", JobProgressLine(job)),
                    JobField("Can be cancelled",
                             job.cancellable() ? "yes" : "no: " + job.why_not_cancellable()));
  }
  if (!job.result().empty()) absl::StrAppend(&text, JobField("Result", job.result()));
  if (job.has_error()) {
    absl::StrAppend(&text, JobField("Error", job.error().message()));
    if (const std::string& next = job.error().info().next_step(); !next.empty()) {
      absl::StrAppend(&text, JobField("Next", next));
    }
  }
  return text;
}

std::string JobTitle(const v1::Job& job) {
  const std::string kind = JobKindName(job.kind());
  if (!job.vm_name().empty()) return absl::StrCat(kind, " of VM ", Printable(job.vm_name()));
  return job.what().empty() ? kind : absl::StrCat(kind, " of ", Printable(job.what()));
}

std::string JobProgressLine(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  std::string line = Printable(progress.phase());
  if (progress.unit() != v1::JOB_UNIT_UNSPECIFIED && (progress.total() | progress.done()) != 0) {
    absl::StrAppend(&line, line.empty() ? "" : ": ", Counted(progress.done(), progress.unit()));
    if (progress.total() != 0) {
      absl::StrAppend(&line, " of ", Counted(progress.total(), progress.unit()), " (",
                      ShortProgress(job), ")");
    }
  }
  if (job.state() == v1::JOB_STATE_CANCELLING) {
    absl::StrAppend(&line, line.empty() ? "" : ", ", "being cancelled");
  }
  return line;
}

int ExitCodeFor(const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_DONE) return kOk;
  const int code = ExitCodeFor(rpc::FromJobError(job.error()));
  if (code == kNeedsPerson) return code;
  const bool moves = job.kind() == v1::JOB_KIND_MIGRATION;
  if (moves && job.error().info().vm_location() == "nowhere") return kNeedsPerson;
  if (code == kTimedOut) return code;
  if (job.state() == v1::JOB_STATE_CANCELLED) return kCancelled;
  if (moves) return kMigrationFailed;
  // Those two are about calls.
  return code == kOk || code == kUnreachable ? kInternal : code;
}

std::string JobEndText(const v1::Job& job, const std::string& host) {
  const std::string title = JobTitle(job);
  if (job.state() == v1::JOB_STATE_DONE) {
    return absl::StrCat(
        "The ", title, " is done",
        job.result().empty() ? "" : absl::StrCat(": ", PrintableLines(job.result())), ".\n");
  }
  if (job.state() == v1::JOB_STATE_CANCELLED) {
    return absl::StrCat("The ", title, " was cancelled.\n");
  }
  absl::Status status = rpc::FromJobError(job.error());
  // Its call's daemon answered; it is the job that failed.
  if (absl::IsUnavailable(status)) {
    status = rpc::Reworded(status, absl::StatusCode::kAborted, status.message());
  }
  return ErrorText(absl::StrCat("the ", title), status, host);
}

void JobProgressView::Show(const v1::Job& job) {
  if (mode_ == JobViewMode::kJson) {
    std::fputs(ToJson(job, false).c_str(), out_);
    std::fflush(out_);
    return;
  }
  const std::string line = JobProgressLine(job);
  if (HasEnded(job) || line.empty()) return;
  if (mode_ == JobViewMode::kTerminal) {
    std::fprintf(out_, "\r\x1b[K%s", line.c_str());
    drawn_ = true;
  } else {
    const auto now = std::chrono::steady_clock::now();
    const bool same = !phase_.empty() && phase_ == job.progress().phase();
    if (same && now - last_line_ < kLineInterval) return;
    phase_ = job.progress().phase();
    last_line_ = now;
    std::fprintf(out_, "%s\n", line.c_str());
  }
  std::fflush(out_);
}

void JobProgressView::Clear() {
  if (drawn_) std::fputs("\r\x1b[K", out_);
  drawn_ = false;
}

}  // namespace ferry::ctl
