#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bridge/container/cgroup.h"
#include "bridge/container/container_runtime.h"
#include "bridge/container/oci_spec.h"
#include "bridge/container/sandbox_namespaces.h"
#include "bridge/container/user_files.h"
#include "bridge/container/volumes.h"
#include "bridge/guest/guest_process.h"
#include "bridge/process/child_gate.h"
#include "bridge/protocol/container_messages.h"

namespace ferry::bridge {

// What containers need of the guest. All of it must outlive the server.
struct ContainerParts {
  ContainerRuntime* runtime = nullptr;
  Volumes* volumes = nullptr;
  std::string cgroup_root = "/sys/fs/cgroup";
  std::string bundle_root = kBundleRoot;
  // Collects the children that have ended and are nobody's.
  std::function<void()> collect_orphans;
};

// The guest's containers. NOT_FOUND is always about the container itself; a state in which
// something is not possible is FAILED_PRECONDITION.
class ContainerHost {
 public:
  // `on_exit` gets the notification of each container whose init has exited, after those that wait
  // for the init at that moment were told.
  ContainerHost(Executor executor, GuestTransport& transport, ContainerParts parts,
                std::function<void(const ContainerNotification&)> on_exit);
  ~ContainerHost();

  // Makes the container with its init, which waits for StartInit(). ALREADY_EXISTS. Its exit will
  // be notified with `activity_id`.
  Task<absl::Status> Create(std::string id, ContainerConfig config, std::string activity_id);

  // One call to run an init. It is the same when it comes again, because an answer may be lost.
  struct StartCall {
    int64_t id = 0;
    StdioRelaySettings stdio;
    bool operator==(const StartCall&) const = default;
  };
  // What has become of it.
  struct Start {
    StartCall call;
    bool done = false;
    absl::Status status;      // once it is done
    uint32_t process_id = 0;  // if it succeeded
  };

  // Runs the init, or another process of a running container. `keep` is called with the process
  // before anybody else could take it for an orphan, and gives it its id.
  using Keep = std::function<void(std::shared_ptr<GuestProcess>)>;
  Task<absl::Status> StartInit(std::string id, StartCall call, ProcessParameters parameters,
                               Keep keep);
  // The start by this very call, until the container is deleted, or started by another one; nullptr
  // if there was none, or if the container's state did not allow it.
  const Start* FindStart(const std::string& id, const StartCall& call) const;
  Task<absl::Status> Exec(std::string id, ProcessParameters parameters, StdioRelaySettings stdio,
                          Keep keep);

  // Signals the init (SIGTERM, or SIGKILL with `force`) and does not wait. FAILED_PRECONDITION if
  // it has exited.
  absl::Status Shutdown(const std::string& id, bool force);

  Task<absl::Status> Pause(std::string id);
  Task<absl::Status> Resume(std::string id);

  absl::StatusOr<ContainerProperties> Properties(const std::string& id, const PropertyQuery& query);

  // A resource of the VM, or with an `id` of a container. INVALID_ARGUMENT for an unknown one.
  Task<absl::Status> Modify(std::string id, ModifySettingsRequest request);

  // Removes container, cgroup and bundle. FAILED_PRECONDITION while its init runs.
  Task<absl::Status> Delete(std::string id);

  // What containers that have the VM's network are told of name servers from now on.
  void SetResolver(const std::string& text);

  // Kills those that were not started, and lets paused ones run, so that they can take a SIGTERM;
  // not with `force`, because they take a SIGKILL as they are.
  Task<void> PrepareShutdown(bool force);

  // No exit is notified any more. To be called before it is destroyed.
  Task<void> Close();

  bool Has(const std::string& id) const { return containers_.contains(id); }

  // Whether a child of this process may be, or is, a container's.
  bool Owns(pid_t pid) const;

 private:
  struct Container {
    explicit Container(Executor executor) : turn(std::move(executor)) {}
    std::string bundle;
    std::string activity_id;  // Create's
    // What its bundle's resolv.conf says, if that is what the VM's does.
    std::optional<std::string> resolver;
    ContainerState state = ContainerState::kCreated;
    bool terminal = false;
    bool busy = false;           // a call that changes it is under way
    std::optional<Start> start;  // the newest
    AsyncMutex turn;             // whoever has the runtime do something with it holds this
    std::shared_ptr<GuestProcess> init;
    std::vector<std::weak_ptr<GuestProcess>> processes;  // that the host knows of
  };
  class Claim;

  absl::StatusOr<std::shared_ptr<Container>> Find(const std::string& id) const;
  absl::StatusOr<Claim> ClaimIn(const std::string& id, ContainerState state, const char* what);
  static Task<absl::StatusOr<AsyncMutex::Guard>> TakeTurn(std::shared_ptr<Container> container);
  absl::Status CheckBundle(const std::string& bundle) const;
  Task<absl::StatusOr<ResolvedUser>> FindUser(ContainerRoot root, std::string name);
  absl::StatusOr<std::shared_ptr<Container>> FindSandbox(const std::string& sandbox_id) const;
  absl::StatusOr<std::string> NamesFolder(const Container& container,
                                          const std::string& sandbox_id) const;
  absl::StatusOr<std::optional<SandboxNamespaces>> OpenSandbox(const std::string& sandbox_id) const;
  Task<absl::Status> CreateIn(std::string id, ContainerConfig config,
                              std::shared_ptr<Container> container);
  Task<absl::Status> CreateInit(std::string id, std::string specification, SpecFacts facts,
                                std::shared_ptr<Container> container);
  Task<absl::Status> RunInit(std::string id, std::shared_ptr<Container> container,
                             ProcessParameters parameters, Keep keep);
  Task<void> WatchInit(std::string id, std::shared_ptr<Container> container);
  Task<absl::Status> ModifyVm(ModifySettingsRequest request);
  Task<absl::Status> MountDisk(MappedVirtualDisk disk);
  Task<absl::Status> Constrain(std::string id, ContainerConstraints constraints);
  absl::Status LimitPods(const PodCgroupMemoryLimit& limit) const;

  const Executor executor_;
  GuestTransport& transport_;
  const ContainerParts parts_;
  const std::function<void(const ContainerNotification&)> on_exit_;
  const CgroupTree cgroups_;
  ChildGate gate_;
  std::map<std::string, std::shared_ptr<Container>> containers_;
  std::string resolver_;
  TaskScope scope_;
};

}  // namespace ferry::bridge
