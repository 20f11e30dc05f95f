#include "vmmanager/qemu/qemu_sweep.h"

#include <spdlog/spdlog.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <set>
#include <system_error>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/cgroup.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qmp_client.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kAnswerLimit{3'000};

std::string FolderOf(const std::string& record) {
  boost::system::error_code error;
  const json::value value = json::parse(record, error);
  const json::object* fields = error ? nullptr : value.if_object();
  const json::value* folder = fields == nullptr ? nullptr : fields->if_contains("folder");
  const json::string* text = folder == nullptr ? nullptr : folder->if_string();
  return text == nullptr ? "" : std::string(text->data(), text->size());
}

// NOT_FOUND if no QEMU runs there any more.
Task<absl::Status> EndQemu(Executor executor, std::string folder) {
  CO_ASSIGN_OR_RETURN(const UniqueFd open, OpenFolder(folder));
  CO_ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(open.get(), kQmpName));
  auto qmp = std::make_shared<QmpClient>(executor, std::move(socket));
  CO_RETURN_IF_ERROR(co_await qmp->WaitReady(kAnswerLimit));
  QmpCallOptions options;
  options.deadline = kAnswerLimit;
  json::object none;
  co_return (co_await qmp->Execute("quit", std::move(none), options)).status();
}

}  // namespace

Task<void> SweepQemuFolders(Executor executor, std::string state_dir, std::string cgroup_parent,
                            std::vector<std::string> adoption_records) {
  std::set<std::string> used;
  for (const std::string& record : adoption_records) {
    if (!record.empty()) used.insert(FolderOf(record));
  }
  std::vector<std::string> left;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    if (entry.is_directory(error) && !used.contains(entry.path().string())) {
      left.push_back(entry.path().string());
    }
  }
  for (const std::string& folder : left) {
    absl::Status ended = co_await EndQemu(executor, folder);
    if (ended.ok()) {
      spdlog::warn("ended a QEMU that no VM knows of: {}", folder);
    } else if (!absl::IsNotFound(ended)) {
      spdlog::error("a QEMU that no VM knows of may still run in {}: {}", folder, ended.ToString());
      continue;
    }
    std::filesystem::remove_all(folder, error);
    if (!cgroup_parent.empty())
      ferry::Spawn(executor, RemoveCgroup(CgroupOf(cgroup_parent, folder)));
  }
}

}  // namespace ferry::vm
