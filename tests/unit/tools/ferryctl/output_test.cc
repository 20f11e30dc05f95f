#include "tools/ferryctl/output.h"

#include <gtest/gtest.h>

#include "tools/ferryctl/progress.h"

namespace ferry::ctl {
namespace {

TEST(Table, AlignsColumnsWithoutTrailingBlanks) {
  Table table({"NAME", "STATE"});
  table.Add({"a-long-name", "running"});
  table.Add({"b", "stopped"});
  EXPECT_EQ(table.ToString(),
            "NAME          STATE\n"
            "a-long-name   running\n"
            "b             stopped\n");
}

TEST(VmTable, ShowsTheList) {
  v1::ListVmsResponse response;
  v1::Vm* vm = response.add_vms();
  vm->set_name("web");
  vm->set_id("id-1");
  vm->set_state(v1::VM_STATE_MIGRATING_OUT);
  vm->mutable_spec()->set_memory_mb(256);
  vm->mutable_spec()->set_cpus(2);
  EXPECT_EQ(VmTable(response),
            "NAME   STATE           MEMORY    CPUS   PROCESSES   UPTIME   STAYS   ID\n"
            "web    migrating-out   256 MiB   2      0           -        no      id-1\n");
}

TEST(VmTable, ShowsWhatAVmHasUntilItBoots) {
  v1::ListVmsResponse response;
  v1::Vm* vm = response.add_vms();
  vm->mutable_spec()->set_memory_mb(512);
  vm->mutable_spec()->set_cpus(2);
  vm->mutable_until_boot()->set_memory_mb(256);
  vm->mutable_until_boot()->set_cpus(2);
  EXPECT_NE(VmTable(response).find("256 MiB   2"), std::string::npos) << VmTable(response);
  const std::string text = VmDetails(*vm);
  EXPECT_NE(text.find("256 MiB (512 MiB from its next boot on)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("CPUs:            2\n"), std::string::npos) << text;
}

v1::Vm SavedVm() {
  v1::Vm vm;
  vm.set_name("web");
  vm.set_state(v1::VM_STATE_SAVED);
  v1::SavedState* saved = vm.mutable_saved();
  saved->set_file("/var/lib/ferry/saved/id-1/state.ferry\x1b[2J");
  saved->set_saved_unix_ms(1769860800000);
  saved->set_file_bytes(84100 << 10);
  saved->set_memory_bytes(256 << 20);
  saved->set_compression(v1::SAVE_COMPRESSION_ZSTD);
  saved->set_encrypted(true);
  return vm;
}

TEST(VmDetails, ShowsWhatWasSaved) {
  const std::string text = VmDetails(SavedVm());
  EXPECT_NE(text.find("State:           saved\n"), std::string::npos) << text;
  EXPECT_NE(text.find("Saved:           2026-01-31T12:00:00Z\n"
                      "Saved in:        /var/lib/ferry/saved/id-1/state.ferry?[2J\n"
                      "Saved size:      82.1 MiB\n"
                      "Saved memory:    256 MiB\n"
                      "Compression:     zstd\n"
                      "Encrypted:       yes\n"),
            std::string::npos)
      << text;
  v1::Vm plain = SavedVm();
  plain.mutable_saved()->clear_compression();
  plain.mutable_saved()->clear_encrypted();
  EXPECT_NE(VmDetails(plain).find("Compression:     none\nEncrypted:       no\n"),
            std::string::npos);
}

TEST(VmDetails, ACardThatAnotherHostNamedStaysInItsLine) {
  v1::Vm vm;
  v1::NicSpec* nic = vm.mutable_spec()->add_nics();
  nic->set_name("eth0\x1b[2J");
  nic->set_mac("02:fe:00:00:00:01");
  nic->set_bridge("br0\nState:           stopped");
  nic->add_addresses("192.0.2.7/24");
  const std::string text = VmDetails(vm);
  EXPECT_NE(text.find("Network:         eth0?[2J 02:fe:00:00:00:01 bridge br0?State:  "),
            std::string::npos)
      << text;
}

TEST(VmDetails, WhatACardHasByDhcpIsInALineOfItsOwn) {
  v1::Vm vm;
  v1::NicSpec* nic = vm.mutable_spec()->add_nics();
  nic->set_name("eth0");
  nic->set_mac("02:fe:00:00:00:01");
  nic->set_bridge("br0");
  nic->set_dhcp(true);
  nic->add_name_servers("192.0.2.3");
  v1::NicLease* lease = vm.add_leases();
  lease->set_nic("eth0");
  lease->set_address("192.0.2.50/24");
  lease->set_gateway("192.0.2.1");
  lease->add_name_servers("192.0.2.2");
  lease->set_server("192.0.2.1");
  const std::string text = VmDetails(vm);
  EXPECT_NE(text.find("Network:         eth0 02:fe:00:00:00:01 bridge br0 dhcp dns 192.0.2.3\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("Lease:           eth0 192.0.2.50/24 gateway 192.0.2.1 dns 192.0.2.2 of "
                      "192.0.2.1\n"),
            std::string::npos)
      << text;
}

TEST(VmDetails, IsSilentOfSavingWhereNothingWasSavedOrSet) {
  v1::Vm vm;
  vm.set_state(v1::VM_STATE_RUNNING);
  for (const char* word : {"Saved", "Save on stop", "Autostart", "Compression", "Encrypted"}) {
    EXPECT_EQ(VmDetails(vm).find(word), std::string::npos) << word;
  }
  vm.mutable_spec()->set_save_on_stop(v1::SAVE_ON_STOP_NO);
  EXPECT_NE(VmDetails(vm).find("Save on stop:    no\n"), std::string::npos);
  vm.mutable_spec()->set_save_on_stop(v1::SAVE_ON_STOP_YES);
  vm.mutable_spec()->set_autostart(true);
  EXPECT_NE(VmDetails(vm).find("Save on stop:    yes\nAutostart:       yes\n"), std::string::npos);
}

TEST(VmTable, NamesTheStatesOfSaving) {
  v1::ListVmsResponse response;
  for (const auto state : {v1::VM_STATE_SAVING, v1::VM_STATE_SAVED, v1::VM_STATE_RESTORING}) {
    response.add_vms()->set_state(state);
  }
  *response.add_vms() = SavedVm();
  const std::string text = VmTable(response);
  for (const char* word :
       {" saving ", " saved ", " restoring ", " saved (82.1 MiB, 2026-01-31T12:00:00Z) "}) {
    EXPECT_NE(text.find(word), std::string::npos) << text;
  }
}

TEST(ToJson, ShowsWhatWasSaved) {
  const std::string line = ToJson(SavedVm(), false);
  EXPECT_NE(line.find("\"state\":\"VM_STATE_SAVED\""), std::string::npos) << line;
  EXPECT_NE(line.find("\"compression\":\"SAVE_COMPRESSION_ZSTD\""), std::string::npos) << line;
}

TEST(SessionDetails, NamesTheHostAtWhichItFailed) {
  v1::Session session;
  session.set_source("host-a:1");
  session.set_destination("host-b:1");
  EXPECT_EQ(SessionDetails(session).find("Failed at"), std::string::npos);
  session.set_failed_at(v1::MIGRATION_ORIGIN_DESTINATION);
  const std::string text = SessionDetails(session);
  const size_t line = text.find("Failed at");
  ASSERT_NE(line, std::string::npos) << text;
  EXPECT_EQ(text.substr(line, text.find('\n', line) - line).find("host-a:1"), std::string::npos);
  EXPECT_NE(text.substr(line, text.find('\n', line) - line).find("host-b:1"), std::string::npos);
}

TEST(MigrationSummary, AHostileHostsTextIsTame) {
  v1::Session session;
  session.set_outcome(v1::SESSION_OUTCOME_FAILED);
  session.set_error("\x1b[2Jgone");
  session.set_next_step("\x1b]0;mine\x07");
  session.set_destination("\x1b[31m");
  session.set_failed_at(v1::MIGRATION_ORIGIN_DESTINATION);
  EXPECT_EQ(MigrationSummary(session).find('\x1b'), std::string::npos);
  EXPECT_EQ(SessionDetails(session).find('\x1b'), std::string::npos);
}

TEST(MigrationSummary, SaysWhatToDoAboutAFailure) {
  v1::Session session;
  session.set_outcome(v1::SESSION_OUTCOME_FAILED);
  session.set_error("the destination cannot be reached");
  EXPECT_EQ(MigrationSummary(session).find("Next"), std::string::npos);
  session.set_next_step("check that ferryd runs there");
  EXPECT_NE(MigrationSummary(session).find("check that ferryd runs there"), std::string::npos);
  EXPECT_NE(SessionDetails(session).find("check that ferryd runs there"), std::string::npos);
}

TEST(ProcessTable, ShowsHowProcessesEndedAndTamesGuestText) {
  v1::ListProcessesResponse response;
  v1::Process* process = response.add_processes();
  process->set_id(12);
  process->mutable_spec()->add_command("evil\x1b[2J");
  process->mutable_exit_status()->set_signal(9);
  const std::string text = ProcessTable(response);
  EXPECT_NE(text.find("killed (signal 9)"), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(ToJson, KeepsProtoNamesAndDefaults) {
  v1::Vm vm;
  vm.set_state_reason("x");
  const std::string line = ToJson(vm, false);
  EXPECT_NE(line.find("\"state_reason\":\"x\""), std::string::npos);
  EXPECT_NE(line.find("\"processes\":0"), std::string::npos);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

TEST(MigrationSummary, NamesEverythingMeasured) {
  v1::Session session;
  session.set_vm_name("web");
  session.set_session_id("s-1");
  session.set_state(v1::SESSION_STATE_FINALIZED);
  session.set_destination("host-b:7700");
  session.set_vm_location("host-b:7700");
  session.mutable_statistics()->set_total_ms(2500);
  session.mutable_statistics()->set_blackout_ms(12);
  session.mutable_statistics()->set_blackout_device_ms(8);
  session.mutable_statistics()->set_blackout_commit_ms(3);
  session.mutable_statistics()->set_blackout_resume_ms(1);
  session.mutable_statistics()->set_transferred_bytes(100 << 20);
  session.mutable_statistics()->set_memory_passes(4);
  const std::string text = MigrationSummary(session);
  for (const char* part : {"Moved web to host-b:7700.", "2.5 s", "12 ms (device state 8.0 ms",
                           "100 MiB", "host-b:7700", "s-1", "4"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

v1::Progress SomeProgress() {
  v1::Progress progress;
  progress.set_pass(3);
  progress.set_remaining_bytes(10 << 20);
  progress.set_total_bytes(256 << 20);
  progress.set_bytes_per_second(100 << 20);
  progress.set_dirty_bytes_per_second(5 << 20);
  return progress;
}

TEST(Progress, TellsPassRestPaceAndWhatTheGuestWrites) {
  v1::Progress progress = SomeProgress();
  progress.set_converging(true);
  progress.set_eta_ms(1500);
  EXPECT_EQ(
      ProgressLine(progress),
      "pass 3, remaining 10.0 MiB, 100 MiB/s, dirty 5.0 MiB/s, converging, about 1.5 s to go");
  progress.set_transferred_bytes(300 << 20);
  const std::vector<std::string> lines = ProgressLines(progress);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "Pass 3, 10.0 MiB of 256 MiB remaining, 300 MiB sent");
  EXPECT_EQ(lines[1], "100 MiB/s, dirtied 5.0 MiB/s, converging, about 1.5 s to go");
}

TEST(Progress, DisksComeBeforeTheMemory) {
  v1::Progress progress = SomeProgress();
  progress.set_disk_done_bytes(1 << 20);
  progress.set_disk_total_bytes(4 << 20);
  EXPECT_EQ(ProgressLine(progress).find("copying"), std::string::npos);
  progress.clear_total_bytes();
  EXPECT_EQ(ProgressLine(progress), "copying disks, 1.0 MiB of 4.0 MiB");
  EXPECT_EQ(ProgressLines(progress).size(), 1u);
}

TEST(Progress, SaysHowSlowlyTheGuestMayWrite) {
  v1::Progress progress = SomeProgress();
  progress.set_disk_write_limit(2 << 20);
  EXPECT_NE(ProgressLine(progress).find("disk writes slowed to 2.0 MiB/s"), std::string::npos);
  progress.clear_total_bytes();
  progress.set_disk_done_bytes(1 << 20);
  progress.set_disk_total_bytes(4 << 20);
  EXPECT_EQ(ProgressLine(progress),
            "copying disks, 1.0 MiB of 4.0 MiB, disk writes slowed to 2.0 MiB/s");
}

TEST(Progress, ShowsAnEtaOnlyWhileConverging) {
  v1::Progress progress = SomeProgress();
  progress.set_eta_ms(1500);
  progress.set_converging(false);
  EXPECT_NE(ProgressLine(progress).find("not converging"), std::string::npos);
  EXPECT_EQ(ProgressLine(progress).find("1.5 s"), std::string::npos);
  progress.set_converging(true);
  EXPECT_NE(ProgressLine(progress).find("1.5 s"), std::string::npos);
  EXPECT_EQ(ProgressLines(progress).size(), 2u);
}

TEST(Progress, SaysNothingOfWhatIsNotKnownYet) {
  v1::Progress progress;
  progress.set_pass(1);
  progress.set_remaining_bytes(255 << 20);
  progress.set_total_bytes(256 << 20);
  EXPECT_EQ(ProgressLine(progress), "pass 1, remaining 255 MiB");
  EXPECT_EQ(ProgressLines(progress).size(), 2u);
  EXPECT_EQ(ToJson(progress, false).find("converging"), std::string::npos);
  EXPECT_EQ(ToJson(progress, false).find("per_second"), std::string::npos);
  progress.set_bytes_per_second(100 << 20);
  EXPECT_EQ(ProgressLine(progress), "pass 1, remaining 255 MiB, 100 MiB/s");
}

// What a view prints into a temporary file.
std::string Shown(ProgressMode mode, int repeats) {
  std::FILE* file = std::tmpfile();
  ProgressView view(mode, file);
  v1::NotificationsResponse response;
  *response.mutable_notification()->mutable_progress() = SomeProgress();
  for (int i = 0; i < repeats; ++i) view.Show(response);
  view.Clear();
  std::string text(4096, '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}

TEST(ProgressView, RedrawsOnATerminalAndThinsOutInAPipe) {
  const std::string terminal = Shown(ProgressMode::kTerminal, 2);
  EXPECT_NE(terminal.find("\x1b[1A\x1b[2K"), std::string::npos);
  const std::string pipe = Shown(ProgressMode::kPipe, 5);
  EXPECT_EQ(pipe.find('\x1b'), std::string::npos);
  EXPECT_EQ(std::count(pipe.begin(), pipe.end(), '\n'), 1);
  const std::string json = Shown(ProgressMode::kJson, 3);
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 3);
}

}  // namespace
}  // namespace ferry::ctl
