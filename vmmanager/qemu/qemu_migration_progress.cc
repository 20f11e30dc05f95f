// What a migration's progress is, and what follows from it for its limits.
#include <boost/json/object.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "vmmanager/qemu/qemu_disk_copies.h"
#include "vmmanager/qemu/qemu_migration.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

void EmitProgress(QemuMachine& machine, const TransferProgress& progress) {
  machine.Emit({.kind = SystemEvent::Kind::kTransferProgress,
                .when = std::chrono::steady_clock::now(),
                .progress = progress});
}

}  // namespace

Task<std::optional<TransferProgress>> QemuMigration::MeasureAt(std::shared_ptr<QemuMachine> machine,
                                                               bool forced) {
  const absl::StatusOr<json::value> reply = co_await machine->Command("query-migrate");
  if (!reply.ok()) co_return std::nullopt;
  TransferProgress progress = ParseMigrationReport(*reply).progress;
  if (progress.total_bytes == 0) co_return std::nullopt;
  progress.forced = forced;
  co_return progress;
}

Task<std::optional<TransferProgress>> QemuMigration::Measure() {
  // Until this run's first event the statistics are those of a former one.
  if (status_.empty()) co_return std::nullopt;
  std::optional<TransferProgress> progress =
      co_await MeasureAt(machine_.shared_from_this(), forced_);
  // The guest may stand still already, and waits for each answer.
  if (!progress || !mirrors_ || status_ != "active") co_return progress;
  const auto copied = co_await MeasureQemuMirrors(machine_.shared_from_this());
  if (copied.ok()) {
    progress->disk_done_bytes = copied->done;
    progress->disk_total_bytes = copied->total;
    progress->disk_write_limit = write_limit_ ? write_limit_->given() : 0;
  }
  co_return progress;
}

Task<void> QemuMigration::KeepLimits(std::optional<TransferProgress> progress) {
  if (!progress || progress->disk_total_bytes == 0) co_return;
  const CopiedBytes copied{.done = progress->disk_done_bytes, .total = progress->disk_total_bytes};
  std::shared_ptr<WriteLimit> writes = write_limit_;
  (void)co_await KeepWriteLimit(&machine_, std::move(writes), copied);
  if (!share_) co_return;
  const auto memory = share_->Look(copied.done, std::chrono::steady_clock::now());
  if (!memory) co_return;
  json::object wanted = {{"max-bandwidth", *memory}};
  (void)co_await machine_.SetMigrationParameters(std::move(wanted));
}

Task<void> QemuMigration::ReportLast(std::shared_ptr<QemuMachine> machine, bool forced) {
  const std::optional<TransferProgress> progress = co_await MeasureAt(machine, forced);
  if (progress) EmitProgress(*machine, *progress);
}

Task<std::optional<TransferProgress>> QemuMigration::ReportProgress() {
  std::optional<TransferProgress> progress = co_await Measure();
  if (progress) {
    reported_at_ = std::chrono::steady_clock::now();
    EmitProgress(machine_, *progress);
  }
  co_return progress;
}

}  // namespace ferry::vm
