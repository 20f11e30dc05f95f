#include "tools/ferryctl/output.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/preflight_view.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

std::string Word(const std::string& enum_name, absl::string_view prefix) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(enum_name.substr(prefix.size())), {{"_", "-"}});
}

std::string Line(absl::string_view name, absl::string_view value) {
  // Much of it comes from a guest or from another host.
  return absl::StrFormat("%-16s %s\n", absl::StrCat(name, ":"), PrintableLines(value));
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

}  // namespace

std::string Printable(const std::string& text) {
  std::string clean;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : '\0');
    // Terminals take U+0080 to U+009F for control characters, too; U+009B begins a sequence.
    const bool wide = c == 0xc2 && next >= 0x80 && next < 0xa0;
    clean += wide || absl::ascii_iscntrl(c) ? '?' : text[i];
    if (wide) ++i;
  }
  return clean;
}

std::string PrintableLines(absl::string_view text) {
  std::string clean;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::StrAppend(&clean, clean.empty() ? "" : "\n",
                    Printable(std::string(absl::StripSuffix(line, "\r"))));
  }
  return clean;
}

std::string Table::ToString() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    if (row.size() > widths.size()) widths.resize(row.size(), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&line, row[i]);
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 3, ' ');
    }
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string ToJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  options.add_whitespace = pretty;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return "{}\n";
  if (text.empty() || text.back() != '\n') text += '\n';
  return text;
}

std::string VmStateName(v1::VmState state) {
  if (!v1::VmState_IsValid(state)) return "unknown";
  return Word(v1::VmState_Name(state), "VM_STATE_");
}

std::string SessionStateName(v1::SessionState state) {
  if (!v1::SessionState_IsValid(state)) return "unknown";
  return Word(v1::SessionState_Name(state), "SESSION_STATE_");
}

std::string OutcomeName(v1::SessionOutcome outcome) {
  if (outcome == v1::SESSION_OUTCOME_UNSPECIFIED) return "-";
  if (!v1::SessionOutcome_IsValid(outcome)) return "unknown";
  return Word(v1::SessionOutcome_Name(outcome), "SESSION_OUTCOME_");
}

std::string SaveOnStopName(v1::SaveOnStop setting) {
  if (setting == v1::SAVE_ON_STOP_UNSPECIFIED) return "default";
  if (!v1::SaveOnStop_IsValid(setting)) return "unknown";
  return Word(v1::SaveOnStop_Name(setting), "SAVE_ON_STOP_");
}

std::string ExitText(const v1::ExitStatus& status) {
  switch (status.kind_case()) {
    case v1::ExitStatus::kCode:
      return absl::StrCat("exited (", status.code(), ")");
    case v1::ExitStatus::kSignal:
      return absl::StrCat("killed (signal ", status.signal(), ")");
    default:
      return "exited (status unknown)";
  }
}

namespace {

v1::MachineSize SizeNow(const v1::Vm& vm) {
  if (vm.has_until_boot()) return vm.until_boot();
  v1::MachineSize size;
  size.set_memory_mb(vm.spec().memory_mb());
  size.set_cpus(vm.spec().cpus());
  return size;
}

// What it has, and what it will have.
std::string NowAndLater(const std::string& now, const std::string& configured) {
  if (now == configured) return now;
  return absl::StrCat(now, " (", configured, " from its next boot on)");
}

}  // namespace

std::string VmTable(const v1::ListVmsResponse& response) {
  Table table({"NAME", "STATE", "MEMORY", "CPUS", "PROCESSES", "UPTIME", "STAYS", "ID"});
  for (const v1::Vm& vm : response.vms()) {
    std::string state = VmStateName(vm.state());
    if (vm.has_saved()) {
      absl::StrAppend(&state, " (", FormatSize(vm.saved().file_bytes()), ", ",
                      FormatTime(vm.saved().saved_unix_ms()), ")");
    }
    const v1::MachineSize size = SizeNow(vm);
    table.Add({vm.name(), std::move(state), FormatSize(size.memory_mb() << 20),
               absl::StrCat(size.cpus()), absl::StrCat(vm.processes()),
               vm.uptime_ms() == 0 ? "-" : FormatAge(vm.uptime_ms()),
               vm.spec().stays() ? "yes" : "no", vm.id()});
  }
  return table.ToString();
}

namespace {

std::string CompressionName(v1::SaveCompression compression) {
  if (compression == v1::SAVE_COMPRESSION_UNSPECIFIED) return "none";
  if (!v1::SaveCompression_IsValid(compression)) return "unknown";
  return Word(v1::SaveCompression_Name(compression), "SAVE_COMPRESSION_");
}

std::string SavedDetails(const v1::SavedState& saved) {
  return absl::StrCat(Line("Saved", FormatTime(saved.saved_unix_ms())),
                      Line("Saved in", Printable(saved.file())),
                      Line("Saved size", FormatSize(saved.file_bytes())),
                      Line("Saved memory", FormatSize(saved.memory_bytes())),
                      Line("Compression", CompressionName(saved.compression())),
                      Line("Encrypted", saved.encrypted() ? "yes" : "no"));
}

std::string AddressWords(const v1::NicSpec& nic) {
  std::string words = nic.dhcp() ? " dhcp" : "";
  for (const std::string& address : nic.addresses()) absl::StrAppend(&words, " ", address);
  for (const std::string& server : nic.name_servers()) absl::StrAppend(&words, " dns ", server);
  return words;
}

std::string LeaseWords(const v1::NicLease& lease) {
  std::string words = absl::StrCat(lease.nic(), " ", lease.address());
  if (!lease.gateway().empty()) absl::StrAppend(&words, " gateway ", lease.gateway());
  for (const std::string& server : lease.name_servers()) absl::StrAppend(&words, " dns ", server);
  return absl::StrCat(words, " of ", lease.server());
}

}  // namespace

std::string VmDetails(const v1::Vm& vm) {
  std::string text = absl::StrCat(Line("Name", vm.name()), Line("Id", vm.id()),
                                  Line("State", VmStateName(vm.state())));
  if (!vm.state_reason().empty()) {
    absl::StrAppend(&text, Line("Reason", vm.state_reason()));
  }
  const v1::MachineSize size = SizeNow(vm);
  absl::StrAppend(
      &text,
      Line("Memory", NowAndLater(FormatSize(size.memory_mb() << 20),
                                 FormatSize(vm.spec().memory_mb() << 20))),
      Line("CPUs", NowAndLater(absl::StrCat(size.cpus()), absl::StrCat(vm.spec().cpus()))),
      Line("Machine", OrDash(vm.machine_type())),
      Line("Firmware", vm.spec().firmware() == v1::FIRMWARE_OVMF ? "ovmf" : "bios"),
      Line("Accelerator", OrDash(vm.accelerator())),
      Line("CPU model",
           vm.spec().cpu_model().empty() ? "the host's default" : vm.spec().cpu_model()),
      Line("Processes", absl::StrCat(vm.processes())),
      Line("Created", FormatTime(vm.created_unix_ms())));
  if (vm.uptime_ms() != 0) absl::StrAppend(&text, Line("Uptime", FormatAge(vm.uptime_ms())));
  if (vm.vmm_pid() != 0) absl::StrAppend(&text, Line("VMM pid", absl::StrCat(vm.vmm_pid())));
  if (!vm.session_id().empty()) absl::StrAppend(&text, Line("Migration", vm.session_id()));
  if (!vm.fence().empty()) absl::StrAppend(&text, Line("Fence", vm.fence()));
  for (const v1::DiskSpec& disk : vm.spec().disks()) {
    absl::StrAppend(&text, Line("Disk", absl::StrCat(disk.name(), " ", disk.file(), " ",
                                                     disk.read_only() ? "(read only)" : "")));
  }
  for (const v1::NicSpec& nic : vm.spec().nics()) {
    const std::string place = nic.user()          ? "user"
                              : nic.tap().empty() ? absl::StrCat("bridge ", nic.bridge())
                                                  : absl::StrCat("tap ", nic.tap());
    absl::StrAppend(&text, Line("Network", Printable(absl::StrCat(nic.name(), " ", nic.mac(), " ",
                                                                  place, AddressWords(nic)))));
  }
  for (const v1::NicLease& lease : vm.leases()) {
    absl::StrAppend(&text, Line("Lease", Printable(LeaseWords(lease))));
  }
  if (vm.spec().stays()) absl::StrAppend(&text, Line("Stays", "yes; it cannot be migrated"));
  for (const v1::ShareSpec& share : vm.spec().shares()) {
    absl::StrAppend(&text, Line("Share", absl::StrCat(Printable(share.host_path()),
                                                      share.read_only() ? " (read only)" : "")));
  }
  if (vm.spec().save_on_stop() != v1::SAVE_ON_STOP_UNSPECIFIED) {
    absl::StrAppend(&text, Line("Save on stop", SaveOnStopName(vm.spec().save_on_stop())));
  }
  if (vm.spec().autostart()) absl::StrAppend(&text, Line("Autostart", "yes"));
  if (vm.has_saved()) absl::StrAppend(&text, SavedDetails(vm.saved()));
  return text;
}

std::string ProcessTable(const v1::ListProcessesResponse& response) {
  Table table({"PROCESS", "STATE", "ATTACHED", "CREATED", "COMMAND"});
  for (const v1::Process& process : response.processes()) {
    table.Add({absl::StrCat(process.id()),
               process.running() ? "running" : ExitText(process.exit_status()),
               process.attached() ? "yes" : "no", FormatTime(process.created_unix_ms()),
               Printable(absl::StrJoin(process.spec().command(), " "))});
  }
  return table.ToString();
}

std::string SessionTable(const v1::ListSessionsResponse& response) {
  Table table(
      {"SESSION", "VM", "STATE", "OUTCOME", "FROM", "TO", "TOTAL", "BLACKOUT", "VM RUNS ON"});
  for (const v1::Session& session : response.sessions()) {
    const bool measured = session.statistics().total_ms() > 0;
    table.Add({session.session_id(), session.vm_name(), SessionStateName(session.state()),
               OutcomeName(session.outcome()), OrDash(session.source()),
               OrDash(session.destination()),
               measured ? FormatMs(session.statistics().total_ms()) : "-",
               measured ? FormatMs(session.statistics().blackout_ms()) : "-",
               OrDash(session.vm_location())});
  }
  return table.ToString();
}

namespace {

std::string OutcomeText(const v1::Session& session) {
  const std::string name = OutcomeName(session.outcome());
  const std::string& reason = session.reason();
  return reason.empty() || reason == name ? name : absl::StrCat(name, " (", reason, ")");
}

}  // namespace

std::string SessionDetails(const v1::Session& session) {
  std::string text = absl::StrCat(
      Line("Session", session.session_id()),
      Line("VM", absl::StrCat(session.vm_name(), " (", session.vm_id(), ")")),
      Line("State", SessionStateName(session.state())), Line("Outcome", OutcomeText(session)),
      Line("From", OrDash(session.source())), Line("To", OrDash(session.destination())),
      Line("VM runs on", OrDash(session.vm_location())));
  if (!session.error().empty()) absl::StrAppend(&text, Line("Error", session.error()));
  if (session.failed_at() != v1::MIGRATION_ORIGIN_UNSPECIFIED) {
    const bool here = session.failed_at() == v1::MIGRATION_ORIGIN_SOURCE;
    absl::StrAppend(&text, Line("Failed at", here ? session.source() : session.destination()));
  }
  if (!session.next_step().empty()) absl::StrAppend(&text, Line("Next", session.next_step()));
  absl::StrAppend(&text, DifferenceTable(session.differences()));
  if (!session.commit_record().empty()) {
    absl::StrAppend(&text, Line("Commit record", session.commit_record()));
  }
  if (!session.fence().empty()) absl::StrAppend(&text, Line("Fence", session.fence()));
  absl::StrAppend(&text, Line("Started", FormatTime(session.created_unix_ms())),
                  Line("Ended", FormatTime(session.ended_unix_ms())));
  return text;
}

namespace {

// "bridge 4, saved_state 1", in the order of the names.
std::string Formats(const v1::Host& host) {
  const std::map<std::string, uint32_t> sorted(host.format_versions().begin(),
                                               host.format_versions().end());
  return absl::StrJoin(sorted, ", ", absl::PairFormatter(" "));
}

}  // namespace

std::string HostDetails(const v1::Host& host) {
  return absl::StrCat(
      Line("Version", host.version()), Line("API", absl::StrCat("v", host.api_version())),
      Line("Address", OrDash(host.advertised_address())),
      Line("Backend", absl::StrCat(host.backend(), " ", host.backend_version())),
      Line("Machine",
           absl::StrCat(OrDash(host.machine_type()), " (", host.machine_types_size(), " types)")),
      Line("CPU models", absl::StrCat(host.cpu_models_size(), " that a VM can be pinned to")),
      Line("Memory", absl::StrCat(FormatSize(host.memory_mb() << 20), ", ",
                                  FormatSize(host.memory_available_mb() << 20), " available")),
      Line("Accelerator",
           host.accelerator_reason().empty()
               ? host.accelerator()
               : absl::StrCat(host.accelerator(), " (", host.accelerator_reason(), ")")),
      Line("Guest link", OrDash(host.guest_link())), Line("Fence", OrDash(host.fence())),
      Line("Journal", OrDash(host.journal_id())), Line("Formats", OrDash(Formats(host))));
}

std::string EventLine(const v1::Event& event) {
  std::vector<std::string> attributes;
  for (const auto& [key, value] : event.attributes()) {
    attributes.push_back(absl::StrCat(key, "=", Printable(value)));
  }
  std::sort(attributes.begin(), attributes.end());
  return absl::StrFormat("%-6d %s  %-24s %s  %s\n", event.id(), FormatTime(event.unix_ms()),
                         event.type(), event.subject(), absl::StrJoin(attributes, " "));
}

std::string MigrationSummary(const v1::Session& session) {
  const v1::Statistics& s = session.statistics();
  std::string text;
  if (Moved(session)) {
    text = absl::StrCat("Moved ", session.vm_name(), " to ", session.destination(), ".\n");
  } else {
    const bool cancelled = ExitCodeFor(session) == kCancelled;
    text = absl::StrCat("Migration of ", session.vm_name(), cancelled ? " cancelled" : " failed",
                        ".\n");
    if (!session.error().empty()) absl::StrAppend(&text, Line("  Reason", session.error()));
    if (!session.next_step().empty()) absl::StrAppend(&text, Line("  Next", session.next_step()));
    absl::StrAppend(&text, DifferenceTable(session.differences()));
  }
  if (s.total_ms() > 0) {
    absl::StrAppend(&text, Line("  Total", FormatMs(s.total_ms())));
    if (s.blackout_ms() > 0) {
      absl::StrAppend(&text,
                      Line("  Blackout", absl::StrCat(FormatMs(s.blackout_ms()), " (device state ",
                                                      FormatMs(s.blackout_device_ms()), ", commit ",
                                                      FormatMs(s.blackout_commit_ms()), ", resume ",
                                                      FormatMs(s.blackout_resume_ms()), ")")));
    }
    absl::StrAppend(&text, Line("  Sent", FormatSize(s.transferred_bytes())),
                    Line("  Memory passes", absl::StrCat(s.memory_passes())));
    if (s.throttle_percent() > 0) {
      absl::StrAppend(&text, Line("  Guest slowed by", absl::StrCat(s.throttle_percent(), "%")));
    }
    if (session.progress().disk_write_limit() > 0) {
      const std::string limit = FormatSize(session.progress().disk_write_limit());
      absl::StrAppend(&text, Line("  Disk writes", absl::StrCat("slowed to ", limit, "/s")));
    }
    if (s.verified_bytes() > 0) {
      absl::StrAppend(&text, Line("  Verified", FormatSize(s.verified_bytes())));
    }
  }
  absl::StrAppend(&text, Line("  VM runs on", OrDash(session.vm_location())),
                  Line("  Session", session.session_id()));
  return text;
}

}  // namespace ferry::ctl
