#include "tools/ferryctl/container_view.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

constexpr size_t kShortId = 12;
constexpr char kStatePrefix[] = "CONTAINER_STATE_";

std::string Entry(absl::string_view name, const std::string& value) {
  return absl::StrFormat("%-16s %s\n", absl::StrCat(name, ":"),
                         value.empty() ? "-" : Printable(value));
}

std::string EntryIfAny(absl::string_view name, const std::string& value) {
  return value.empty() ? "" : Entry(name, value);
}

// How it ended, in one word or two.
std::string ExitWords(const v1::Container& container) {
  if (container.state() != v1::CONTAINER_STATE_STOPPED) return "-";
  const v1::ExitStatus& status = container.exit_status();
  switch (status.kind_case()) {
    case v1::ExitStatus::kCode:
      return absl::StrCat(status.code());
    case v1::ExitStatus::kSignal:
      return absl::StrCat("signal ", status.signal());
    default:
      return "unknown";
  }
}

std::string Cpus(uint32_t millis) {
  return absl::StrFormat("%.6g", static_cast<double>(millis) / 1000);
}

std::string LimitFields(const v1::ContainerLimits& limits) {
  std::string text;
  if (limits.has_memory_bytes()) {
    absl::StrAppend(&text, Entry("Memory limit", FormatSize(limits.memory_bytes())));
  }
  if (limits.has_cpu_millis()) {
    absl::StrAppend(&text, Entry("CPU limit", Cpus(limits.cpu_millis())));
  }
  if (limits.has_pids()) {
    absl::StrAppend(&text, Entry("Process limit", absl::StrCat(limits.pids())));
  }
  return text;
}

std::string SpecFields(const v1::ContainerSpec& spec) {
  std::string text =
      absl::StrCat(EntryIfAny("Entrypoint", absl::StrJoin(spec.entrypoint(), " ")),
                   EntryIfAny("Command", absl::StrJoin(spec.command(), " ")),
                   EntryIfAny("Working dir", spec.working_directory()),
                   EntryIfAny("User", spec.user()), EntryIfAny("Host name", spec.hostname()),
                   EntryIfAny("Pod", spec.pod()), LimitFields(spec.limits()));
  if (spec.read_only()) absl::StrAppend(&text, Entry("Read only", "yes"));
  if (spec.terminal()) absl::StrAppend(&text, Entry("Terminal", "yes"));
  if (spec.remove_when_stopped()) absl::StrAppend(&text, Entry("Removed", "when it has stopped"));
  for (const std::string& variable : spec.environment()) {
    absl::StrAppend(&text, Entry("Env", variable));
  }
  const std::map<std::string, std::string> labels(spec.labels().begin(), spec.labels().end());
  for (const auto& [name, value] : labels) {
    absl::StrAppend(&text, Entry("Label", absl::StrCat(name, "=", value)));
  }
  return text;
}

std::string Limit(bool limited, const std::string& value) { return limited ? value : "-"; }

}  // namespace

std::string ContainerStateName(v1::ContainerState state) {
  if (!v1::ContainerState_IsValid(state)) return "unknown";
  return absl::AsciiStrToLower(v1::ContainerState_Name(state).substr(sizeof(kStatePrefix) - 1));
}

std::string ContainerTable(const v1::ListContainersResponse& response) {
  Table table({"NAME", "IMAGE", "STATE", "EXIT", "VM", "CREATED", "ID"});
  for (const v1::Container& container : response.containers()) {
    table.Add({Printable(container.spec().name()), Printable(container.spec().image()),
               ContainerStateName(container.state()), ExitWords(container),
               Printable(container.vm_name()), FormatTime(container.created_unix_ms()),
               Printable(container.id().substr(0, kShortId))});
  }
  return table.ToString();
}

std::string ContainerDetails(const v1::Container& container) {
  std::string text = absl::StrCat(
      Entry("Name", container.spec().name()), Entry("Id", container.id()),
      EntryIfAny("Made as", container.guest_id()), Entry("Image", container.spec().image()),
      Entry("Image id", container.image_id()),
      Entry("State", ContainerStateName(container.state())));
  if (container.state() == v1::CONTAINER_STATE_STOPPED) {
    absl::StrAppend(&text, Entry("Exit", ExitWords(container)));
  }
  const char* made = container.owns_vm() ? ", made for it" : "";
  absl::StrAppend(
      &text, Entry("VM", absl::StrCat(container.vm_name(), " (", container.vm_id(), ")", made)));
  if (container.process_id() != 0) {
    absl::StrAppend(&text, Entry("Process", absl::StrCat(container.process_id())));
  }
  absl::StrAppend(&text, Entry("Created", FormatTime(container.created_unix_ms())),
                  Entry("Started", FormatTime(container.started_unix_ms())),
                  Entry("Stopped", FormatTime(container.stopped_unix_ms())),
                  SpecFields(container.spec()), EntryIfAny("Scratch", container.scratch_file()));
  for (const v1::ContainerMount& mount : container.spec().mounts()) {
    absl::StrAppend(
        &text, Entry("Folder", Printable(absl::StrCat(mount.host_path(), " at ", mount.path(),
                                                      mount.read_only() ? " (read only)" : ""))));
  }
  // The lowest first.
  for (const std::string& layer : container.layers()) {
    absl::StrAppend(&text, Entry("Layer", layer));
  }
  return text;
}

std::string ContainerLine(const v1::Container& container) {
  return absl::StrCat(Printable(container.spec().name()), " ",
                      ContainerStateName(container.state()), "\n");
}

std::optional<double> CpuPercent(const v1::ContainerStats& before, const v1::ContainerStats& now) {
  // The clock may have been set back, and the counters begin anew with another container.
  if (now.unix_ms() <= before.unix_ms() || now.cpu_total_ns() < before.cpu_total_ns()) {
    return std::nullopt;
  }
  const auto used_ns = static_cast<double>(now.cpu_total_ns() - before.cpu_total_ns());
  return used_ns / 1e6 / static_cast<double>(now.unix_ms() - before.unix_ms()) * 100;
}

std::string StatsTable(const std::vector<StatsSample>& samples) {
  Table table(
      {"NAME", "VM", "CPU", "MEMORY", "LIMIT", "PIDS", "LIMIT", "READ", "WRITTEN", "OOM KILLS"});
  for (const StatsSample& sample : samples) {
    const v1::ContainerStats& now = sample.now;
    std::optional<double> cpu;
    if (sample.before) cpu = CpuPercent(*sample.before, now);
    table.Add({Printable(sample.name), Printable(sample.vm),
               cpu ? absl::StrFormat("%.1f%%", *cpu) : "-", FormatSize(now.memory_bytes()),
               Limit(now.has_memory_limit_bytes(), FormatSize(now.memory_limit_bytes())),
               absl::StrCat(now.pids()),
               Limit(now.has_pids_limit(), absl::StrCat(now.pids_limit())),
               FormatSize(now.read_bytes()), FormatSize(now.written_bytes()),
               absl::StrCat(now.oom_kills())});
  }
  return table.ToString();
}

}  // namespace ferry::ctl
