#pragma once

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/qemu/qemu_process.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// The descriptor under which virtiofsd gets the socket that it listens on.
inline constexpr int kFolderServerFd = 10;

// The words that start virtiofsd for the folder that it sees at `place`, with so many open files.
std::vector<std::string> FolderServerCommand(const std::string& binary, const std::string& place,
                                             uint64_t files);

// Where and as what a VM's virtiofsd processes run.
struct FolderServing {
  std::string binary;
  std::string vm_folder;  // 0700
  int vm_folder_fd = -1;
  std::string log;  // a file that their words are appended to
  std::string cgroup;
  std::optional<int> niceness;
};

// The processes that serve a VM's shared folders, one each. Each serves one QEMU, ends when that
// does, and outlives the daemon as it does. Thread: the executor's only.
class FolderServers {
 public:
  // `on_lost` is told, for people, of one that has ended by itself: nothing can take its place, so
  // what the guest wants of its folder hangs until the VM is restarted. That QEMU has ended may be
  // told later.
  FolderServers(Executor executor, std::function<void(std::string what)> on_lost)
      : executor_(std::move(executor)), on_lost_(std::move(on_lost)) {}

  // Starts them, before QEMU. FAILED_PRECONDITION if a folder is not there, or has become another
  // one.
  Task<absl::Status> Start(FolderServing how, std::map<std::string, schema::SharedFolder> shares);
  // Adds the ends that QEMU is to inherit, by their numbers there.
  void AddDescriptors(std::map<int, int>* descriptors) const;
  // QEMU has inherited them, or never will: a server ends when nobody has its other end any more.
  void CloseDescriptors() { ends_.clear(); }

  // What Adopt() takes.
  boost::json::array Record() const;
  // Those that still run.
  void Adopt(const boost::json::value* record);

  // QEMU has ended: sees to it that they do, too, those that hang by force.
  void End();
  // Lets go of them without ending them.
  void Release();

 private:
  struct Server {
    std::string path;
    std::unique_ptr<QemuProcess> process;
    std::function<void(std::string)> on_lost;  // none: it is no news that it ends
    AsyncEvent ended;
    Server(Executor executor, std::string its_path, std::unique_ptr<QemuProcess> its_process)
        : path(std::move(its_path)), process(std::move(its_process)), ended(std::move(executor)) {}
  };
  Task<absl::Status> StartOne(const FolderServing* how, std::string number,
                              schema::SharedFolder share);
  void Keep(std::string path, std::unique_ptr<QemuProcess> process);
  static Task<void> Watch(std::shared_ptr<Server> server);
  static Task<void> EndOne(std::shared_ptr<Server> server);

  const Executor executor_;
  const std::function<void(std::string)> on_lost_;
  std::vector<std::shared_ptr<Server>> servers_;
  std::map<int, UniqueFd> ends_;  // by their number in QEMU
};

}  // namespace ferry::vm
