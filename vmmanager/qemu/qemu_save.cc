#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_disks.h"
#include "vmmanager/qemu/qemu_migration_settings.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kPollPeriod{50};
constexpr char kStreamName[] = "state";

// Waits for the job's end. Its events belong to migrations, so it is looked at.
Task<absl::Status> AwaitJob(QemuMachine* machine) {
  while (true) {
    CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine->Command("query-migrate"));
    const MigrationReport report = ParseMigrationReport(reply);
    if (report.status == "completed") co_return absl::OkStatus();
    // One that was never begun has no status, or "none".
    const bool ended = report.status == "failed" || report.status == "cancelled" ||
                       report.status.empty() || report.status == "none";
    if (ended) {
      co_return absl::AbortedError(absl::StrCat("QEMU could not write the state: ", report.error));
    }
    co_await Delay(kPollPeriod);
  }
}

// A guest that runs on must not be stopped by a job that nobody waits for, and the next save needs
// the descriptor's name.
Task<void> CallOff(QemuMachine* machine) {
  (void)co_await machine->Command("migrate_cancel");
  (void)co_await AwaitJob(machine);
  json::object name = {{"fdname", kStreamName}};
  (void)co_await machine->Command("closefd", std::move(name));
}

}  // namespace

Task<absl::Status> SaveToStream(std::shared_ptr<QemuMachine> machine, schema::SaveOptions options,
                                UniqueFd stream) {
  if (machine->state() != schema::SystemState::kPaused) {
    co_return machine->WrongState("save it (pause it first)");
  }
  if (options.save_type != "ToFile")
    co_return absl::InvalidArgumentError("SaveType must be ToFile");
  CO_RETURN_IF_ERROR(co_await machine->SetPlainMigration());
  QmpCallOptions with_stream;
  with_stream.send_fd = stream.get();
  json::object name = {{"fdname", kStreamName}};
  CO_RETURN_IF_ERROR((co_await machine->Command("getfd", std::move(name), with_stream)).status());
  // Whoever reads it sees its end when QEMU closes it.
  stream.Reset();
  json::object uri = {{"uri", absl::StrCat("fd:", kStreamName)}};
  absl::Status saved = (co_await machine->Command("migrate", std::move(uri))).status();
  if (saved.ok()) saved = co_await AwaitJob(machine.get());
  if (!saved.ok()) co_await CallOff(machine.get());
  // Whoever lets the guest run now must not be refused.
  (void)co_await machine->SettledRunState();
  co_return saved;
}

}  // namespace ferry::vm
