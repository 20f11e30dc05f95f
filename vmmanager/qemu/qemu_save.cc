#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/thread_pool.hpp>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_disks.h"
#include "vmmanager/qemu/qemu_migration_settings.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kPollPeriod{50};

struct UnlinkOnExit {
  std::string path;
  ~UnlinkOnExit() {
    if (!path.empty()) ::unlink(path.c_str());
  }
};

Task<absl::Status> SyncFile(int file) {
  if (::fdatasync(file) != 0)
    co_return absl::ErrnoToStatus(errno, "cannot write the state to disk");
  co_return absl::OkStatus();
}

// Waits for the job's end. Its events belong to migrations, so it is looked at.
Task<absl::Status> AwaitJob(QemuMachine* machine) {
  while (true) {
    CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine->Command("query-migrate"));
    const MigrationReport report = ParseMigrationReport(reply);
    if (report.status == "completed") co_return absl::OkStatus();
    if (report.status == "failed" || report.status == "cancelled") {
      co_return absl::AbortedError(absl::StrCat("QEMU could not write the state: ", report.error));
    }
    co_await Delay(kPollPeriod);
  }
}

}  // namespace

Task<absl::Status> SaveToFile(std::shared_ptr<QemuMachine> machine, schema::SaveOptions options) {
  if (machine->state() != schema::SystemState::kPaused) {
    co_return machine->WrongState("save it (pause it first)");
  }
  const std::string& path = options.save_state_file_path;
  if (options.save_type != "ToFile" || path.empty()) {
    co_return absl::InvalidArgumentError("SaveType must be ToFile, with a SaveStateFilePath");
  }
  UnlinkOnExit partial{absl::StrCat(path, ".partial")};
  const UniqueFd file(::open(partial.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
  json::object plain = PlainCapabilities(machine->host().capabilities);
  CO_RETURN_IF_ERROR(co_await machine->SetMigrationCapabilities(std::move(plain)));
  json::object parameters = ParametersFor({});
  CO_RETURN_IF_ERROR(co_await machine->SetMigrationParameters(std::move(parameters)));
  QmpCallOptions with_file;
  with_file.send_fd = file.get();
  json::object name = {{"fdname", "state"}};
  CO_RETURN_IF_ERROR((co_await machine->Command("getfd", std::move(name), with_file)).status());
  json::object uri = {{"uri", "fd:state"}};
  CO_RETURN_IF_ERROR((co_await machine->Command("migrate", std::move(uri))).status());
  CO_RETURN_IF_ERROR(co_await AwaitJob(machine.get()));
  // A sync may take long; this thread has other VMs to serve.
  asio::thread_pool pool(1);
  absl::Status synced =
      co_await asio::co_spawn(pool.get_executor(), SyncFile(file.get()), asio::use_awaitable);
  CO_RETURN_IF_ERROR(synced);
  if (std::rename(partial.path.c_str(), path.c_str()) != 0) {
    co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot name the file ", path));
  }
  partial.path.clear();
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
