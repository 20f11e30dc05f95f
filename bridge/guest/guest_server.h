#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "bridge/guest/bridge_outbox.h"
#include "bridge/guest/container_host.h"
#include "bridge/guest/filesystem_freezer.h"
#include "bridge/guest/guest_network.h"
#include "bridge/guest/guest_process.h"
#include "bridge/guest/wall_clock.h"
#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// The guest's end of the bridge: dials the host, answers its requests, and dials again whenever the
// connection is lost. Processes, their streams and pending waits outlive connections.
class GuestServer : public std::enable_shared_from_this<GuestServer> {
 public:
  struct Options {
    // After ShutdownGraceful's SIGTERM, before SIGKILL.
    milliseconds shutdown_grace{5'000};
    std::function<void(const std::string&)> log;
    // Without them the server runs processes of the VM itself only.
    std::optional<ContainerParts> containers;
    // Outlives the server. Without it the host does not set the clock.
    WallClock* clock = nullptr;
    // Outlives the server. Without it the host does not freeze the guest's filesystems.
    Filesystems* filesystems = nullptr;
    // The same. Without it the host has no say in the VM's interfaces.
    GuestNetwork* network = nullptr;
  };

  enum class End { kShutdownGraceful, kShutdownForced };

  // `transport` must outlive the server.
  GuestServer(Executor executor, GuestTransport& transport, Options options);
  ~GuestServer();

  // Serves until the host asks the VM itself to shut down; then all processes are gone.
  Task<End> Run();

  // Says that a container has exited; held until the protocol is negotiated.
  void NotifyContainerExit(const ContainerNotification& notification);

  // True for pids whose exit status is still owed to somebody.
  bool Owns(uint32_t pid) const;

 private:
  static constexpr size_t kMaxRequests = 4096;

  // One connection's view: whether it is the current one is known by its number.
  using LinkNumber = uint64_t;

  Task<void> Serve(std::shared_ptr<Connection> connection);
  Task<absl::Status> ReadRequests(Connection& connection);
  Task<void> WriteAnswers(std::shared_ptr<GuestServer> self, std::shared_ptr<Connection> connection,
                          LinkNumber link);
  absl::Status OnFrame(Frame frame);
  void OnNegotiate(const Frame& frame);
  Task<void> Handle(std::shared_ptr<GuestServer> self, Frame frame);

  // Each returns the answer's text; it is empty if the request came before and is answered then.
  Task<std::string> Answer(const Frame& frame, const RequestBase& base);
  Task<std::string> OnExecute(const Frame& frame);
  Task<std::string> OnWait(const Frame& frame);
  Task<std::string> OnShutdown(const RequestBase& base, bool force);
  Task<std::string> OnCreate(const Frame& frame, const RequestBase& base);
  std::string OnSignal(const Frame& frame);
  std::string OnResize(const Frame& frame);
  std::string OnGetProperties(const Frame& frame);
  ContainerProperties PropertiesOfVm(const PropertyQuery& query) const;
  Task<std::string> OnExecuteInContainer(int64_t call, ExecuteProcessRequest request);
  Task<std::string> OnStartInit(int64_t call, ExecuteProcessRequest request);
  Task<std::string> OnModifySettings(const Frame& frame);
  std::string AddAdapter(const ModifySettingsRequest& request);
  // Tells containers of it when the guest's name servers change.
  std::function<void()> ResolverListener();
  Task<std::string> OnContainerRequest(uint32_t type, const RequestBase& base);
  std::string OnAcknowledgeExit(const Frame& frame);
  std::string OnListProcesses(const RequestBase& base);
  std::string OnGetClock(const RequestBase& base);
  std::string OnAdjustClock(const Frame& frame);
  Task<std::string> OnFreeze(const Frame& frame);
  Task<std::string> OnThaw(const RequestBase& base);

  // Gives it a number that no other one has, and keeps it until its exit is acknowledged.
  void Add(std::shared_ptr<GuestProcess> process);
  std::shared_ptr<GuestProcess> Find(uint32_t id) const;
  Task<void> EndProcesses(bool force);
  Task<void> Farewell(std::shared_ptr<GuestServer> self);
  void Post(uint32_t type, int64_t id, const std::string& text, bool direct);

  const Executor executor_;
  GuestTransport& transport_;
  const Options options_;
  BridgeOutbox outbox_;
  std::map<uint32_t, std::shared_ptr<GuestProcess>> processes_;  // by the host's number
  std::optional<ContainerHost> containers_;
  std::shared_ptr<FilesystemFreezer> freezer_;  // nullptr: none may be frozen
  LinkNumber link_ = 0;
  size_t requests_ = 0;
  std::optional<End> end_;  // asked for
  std::shared_ptr<Connection> connection_;
  TaskScope scope_;
};

}  // namespace ferry::bridge
