#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/network_messages.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"
#include "guestmanager/guest_log.h"
#include "guestmanager/process.h"
#include "guestmanager/spool_file.h"

// The host's side of one guest: its agent's connection, the processes in it and their stdio.
namespace ferry::guest {

struct GuestOptions {
  milliseconds rpc_timeout{300'000};  // of one call to the agent (hcsshim: 5 min)
  milliseconds shutdown_timeout{30'000};
  SpoolSettings spool;
  size_t max_processes = 4096;  // more are refused; what a migration carries is bounded
  size_t ended_kept = 64;       // ended processes that nobody is attached to; the newest stay
  GuestLogSink log;             // null: the guest's log is not taken
  std::shared_ptr<LogAllowance> log_allowance;  // what all guests' logs share; null: nothing
};

// What a migration carries of a guest, and what the destination makes it from again.
struct GuestState {
  uint32_t next_port = 0;               // port floor; 0: none
  int64_t next_message_id = 0;          // message id floor; 0: none
  std::vector<ProcessState> processes;  // sorted by pid
  // Inits of containers whose start is not answered yet, sorted by container: without a pid, and
  // their wait is the start's call.
  std::vector<ProcessState> starting;
  uint64_t started_unix_ms = 0;  // 0: not known
  uint32_t timeline = 0;         // later with each time that the guest was put back
};

class Container;
class GuestConnection;
class GuestContainers;
class GuestFilesystems;
class PortAllocator;

// Thread: the executor's only. Calls that need the agent fail with UNAVAILABLE while it is away.
class Guest : public std::enable_shared_from_this<Guest> {
 public:
  // `transport` must outlive the guest, or be closed before it goes away.
  static std::shared_ptr<Guest> Create(Executor executor, bridge::HostTransport& transport,
                                       GuestOptions options);
  ~Guest();

  // Listens on the bridge port, and on the log's, without which it does as well. Once listening the
  // agent may dial at any time.
  absl::Status Listen();

  // Returns when the agent has dialled and the protocol is negotiated. From then on a lost link is
  // re-established in the background: the agent dials again, the protocol is renegotiated, and
  // pending waits and streams go on.
  Task<absl::Status> WaitReady();
  bool ready() const;

  // When the guest began to run, by the clock of the host that began it.
  uint64_t started_unix_ms() const;
  uint32_t timeline() const;

  // If the answer is lost with the link the caller gets UNAVAILABLE, and what may run nevertheless
  // is killed once the agent is back.
  // A repeated call with the same `request_id` returns the process that the first one made (or is
  // making); FAILED_PRECONDITION if that has exited and was forgotten.
  // In a container (`spec.container_id`) the runtime is told `oci_process`, JSON text that says the
  // same and more.
  Task<absl::StatusOr<std::shared_ptr<Process>>> CreateProcess(ProcessSpec spec,
                                                               std::string request_id = "",
                                                               std::string oci_process = "");
  // The process that a call with this id has made, or is making; nullptr if none did. As above.
  Task<absl::StatusOr<std::shared_ptr<Process>>> MadeBefore(std::string request_id);
  // Runs the init of a container that was created. `spec` says which, and what its specification
  // said of stdio already. Its request is sent again each time that the agent is back, until it is
  // answered. A start that AwaitStart() would wait for is not asked for once more: it is the one.
  Task<absl::StatusOr<std::shared_ptr<Process>>> StartContainer(ProcessSpec spec,
                                                                std::string request_id = "");
  // The init of a container whose start another host, or a former daemon, had asked for and got no
  // answer to: waits for that, once the agent is there. nullptr: there is no such start, or
  // somebody else waits for it already.
  Task<absl::StatusOr<std::shared_ptr<Process>>> AwaitStart(std::string container_id);
  // Whether there is such a start.
  bool StartIsAwaited(const std::string& container_id) const;
  // What else there is to ask about containers. As long as the guest.
  GuestContainers& container_host();
  // Its filesystems on disks. As long as the guest.
  GuestFilesystems& filesystems();
  // nullptr if there is no such process.
  std::shared_ptr<Process> Find(uint32_t pid) const;
  std::vector<std::shared_ptr<Process>> processes() const;
  // Drops an exited process from the list, and its status from the agent.
  void Forget(uint32_t pid);

  // Attaches to something that runs in the guest already; nothing is sent. "" is the VM itself.
  std::shared_ptr<Container> OpenContainer(const std::string& id);

  // Makes the VM's network cards interfaces with these names, addresses and routes. UNIMPLEMENTED
  // if the agent knows nothing of that.
  Task<absl::Status> AddAdapters(std::vector<bridge::NetworkAdapter> adapters);

  // What the cards have of DHCP servers, as the agent says.
  Task<absl::StatusOr<std::vector<bridge::NetworkLease>>> Leases();

  // Asks the agent to end everything in order (or by force) and power off.
  Task<absl::Status> Shutdown(bool force);
  Task<absl::StatusOr<std::string>> GetProperties(std::string query_json);

  // Stops taking anything from the guest, so that Save() is the last word; Unfreeze() goes on as if
  // nothing had been. Writes to the guest are held back meanwhile.
  void Freeze();
  void Unfreeze();

  // The guest is about to be paused: until it runs again, and its clock has been set, none of its
  // processes is told anything.
  void StandsStill();
  void RunsAgain();

  // The state that a destination needs. FAILED_PRECONDITION, naming the process, if one of them
  // cannot be carried over.
  absl::StatusOr<GuestState> Save() const;

  // On a destination, before the guest runs: takes over what Save() returned. Every stream listens
  // again on its port and every wait is adopted; processes can be attached to at once. When the
  // agent has dialled, waits are asked for anew as well, because an answer may have been lost.
  absl::Status Restore(const GuestState& state);

  // Ends all waits and streams with `reason`. The guest itself is not touched.
  void Close(const absl::Status& reason);

  // Called on every change that a restart of the daemon would have to know (a process came, exited,
  // was forgotten, another client attached to it, its stdin ended, a port or id was used).
  void set_on_change(std::function<void()> callback);

 private:
  Guest(Executor executor, bridge::HostTransport& transport, GuestOptions options);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ferry::guest
