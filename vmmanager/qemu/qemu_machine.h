#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/qemu/console_log.h"
#include "vmmanager/qemu/folder_servers.h"
#include "vmmanager/qemu/guest_link.h"
#include "vmmanager/qemu/migration_settings_mirror.h"
#include "vmmanager/qemu/qemu_backend.h"
#include "vmmanager/qemu/qemu_capabilities.h"
#include "vmmanager/qemu/qemu_cards.h"
#include "vmmanager/qemu/qemu_process.h"
#include "vmmanager/qemu/qmp_client.h"
#include "vmmanager/qemu/stream_relay.h"

namespace ferry::vm {

// The QMP socket in a VM's folder.
inline constexpr char kQmpName[] = "qmp";

// What all systems of one backend share.
struct QemuHost {
  QemuHost(Executor e, QemuBackendConfig c) : executor(std::move(e)), config(std::move(c)) {}
  Executor executor;
  QemuBackendConfig config;
  BackendInfo info;
  QemuCapabilities capabilities;
};

// Hears of what QEMU tells about migrations.
class MigrationObserver {
 public:
  virtual ~MigrationObserver() = default;
  // True if the change of run state belongs to a migration and is no news of its own.
  virtual bool OnRunState(bool running, std::chrono::steady_clock::time_point when) = 0;
  virtual void OnMigrationEvent(const QmpEvent& event,
                                std::chrono::steady_clock::time_point when) = 0;
  virtual void OnExit() = 0;
};

// One QEMU process with its monitor, its folder and its guest link: started, adopted, supervised.
// Its tasks keep it alive; Detach() lets them end and leaves QEMU running.
class QemuMachine : public std::enable_shared_from_this<QemuMachine> {
 public:
  QemuMachine(std::shared_ptr<const QemuHost> host, std::string id, schema::ComputeSystem document,
              std::unique_ptr<GuestLink> link);

  // Launches QEMU up to an answering monitor; no guest code runs yet.
  Task<absl::Status> Launch(bool incoming);
  // Lets the guest link of an incoming machine speak; until its state is loaded it must not.
  void OpenLink();
  // Breaks the guest link and offers it anew: the guest's end is of another time.
  absl::Status RenewLink() { return AttachLink(); }

  // Takes over the QEMU of an adoption record.
  Task<absl::Status> Adopt(std::string record);
  std::string adoption_record() const;

  // Runs a QMP command.
  Task<absl::StatusOr<boost::json::value>> Command(
      std::string command, boost::json::object arguments = boost::json::object(),
      QmpCallOptions options = QmpCallOptions());
  // Says which command will probably be the next one: see QmpClient.
  void Anticipate(std::string command, boost::json::object arguments = boost::json::object());
  // Sees to it that QEMU has these migration settings: arguments of migrate-set-capabilities and
  // migrate-set-parameters.
  Task<absl::Status> SetMigrationCapabilities(boost::json::object arguments);
  Task<absl::Status> SetMigrationParameters(boost::json::object arguments);
  // Asks what they are: a former job may have left them, or somebody else have set them.
  Task<void> ReadMigrationSettings();
  // Has them be those of a job without a peer, whatever they are.
  Task<absl::Status> SetPlainMigration();
  // While `limit` is set QEMU is at work in its main loop and answers nobody: commands wait that
  // long at least. The end of a job that was never answered must not be taken for QEMU's death.
  void ExpectSilence(std::optional<milliseconds> limit) { silence_ = limit; }
  // Lets `tap` hear every event of QEMU, before anything is made of it, until its number is given
  // back.
  uint64_t AddEventTap(std::function<void(const QmpEvent&)> tap);
  void RemoveEventTap(uint64_t number) { event_taps_.erase(number); }
  // A pipe whose bytes go on into `to` (see StreamRelay). QEMU keeps an end of it, so that what it
  // writes there neither breaks nor stands still for ever when a daemon dies: the next one reads it
  // to its end. Returns where to write. UNIMPLEMENTED if an older ferryd has started this QEMU, the
  // kernel hands nothing out, or somebody still reads what was written before.
  Task<absl::StatusOr<UniqueFd>> OpenStatePipe(UniqueFd to);
  // What reads it; not before OpenStatePipe.
  StreamRelay& state_relay() { return *state_relay_; }
  // How much QEMU has written to its standard error so far, and what it wrote since.
  uint64_t WordsSoFar() const;
  std::string WordsSince(uint64_t offset) const;

  // QEMU's run state, e.g. "running", "paused", "postmigrate".
  Task<absl::StatusOr<std::string>> RunState();
  // The same once a stream that has ended is over for QEMU, too: it tells of the end a moment
  // before it leaves finish-migrate, has no event for that, and refuses to run the guest meanwhile.
  Task<absl::StatusOr<std::string>> SettledRunState();

  // Lets the guest run and makes sure that it does. Its cards carry from here on, and tell their
  // networks where it is; if it certainly does not run, those that carried nothing do not either.
  Task<absl::Status> RunGuest();
  // Whether it has taken a state, of a stream or a snapshot, and may not have run since.
  bool took_state() const { return took_state_; }
  void set_took_state(bool took) { took_state_ = took; }
  // Lets its cards carry nothing until then: it stands still, and may go on elsewhere.
  void SilenceCards() { cards_.Silence(); }

  // Removes a device by its id and returns once QEMU has let go of all that it used.
  Task<absl::Status> RemoveDevice(std::string device);

  // Ends QEMU: asked in order first, then killed. Returns when it has ended. The first cause that
  // was named is reported.
  Task<absl::Status> End(SystemExit::Cause cause);
  // Whether it has ended, or does so within that time.
  Task<bool> HasEnded(milliseconds patience);

  // Returns when QEMU has ended.
  Task<void> WaitEnded() { return ended_.Wait(); }

  void Detach();

  void Emit(SystemEvent event);
  void EmitMigration(schema::MigrationOrigin origin, schema::MigrationEventName name,
                     schema::MigrationResult result,
                     std::chrono::steady_clock::time_point when = std::chrono::steady_clock::now());

  const std::string& id() const { return id_; }
  const QemuHost& host() const { return *host_; }
  schema::ComputeSystem& document() { return document_; }
  schema::SystemState state() const { return state_; }
  // Whether its end is on its way: it was told to, or says nothing any more.
  bool ending() const { return cause_.has_value() || told_all_.is_set(); }
  void set_state(schema::SystemState state) { state_ = state; }
  void set_observer(MigrationObserver* observer) { observer_ = observer; }
  AsyncQueue<SystemEvent>& events() { return events_; }
  GuestLink& link() { return *link_; }
  pid_t pid() const { return process_ ? process_->pid() : 0; }
  std::chrono::steady_clock::time_point started() const { return started_; }

  // FAILED_PRECONDITION that names the verb and the state.
  absl::Status WrongState(const char* verb) const;

  // `status` with what QEMU printed last, if it printed anything.
  absl::Status WithLastWords(absl::Status status) const;

 private:
  static Task<void> PumpEvents(std::shared_ptr<QemuMachine> self, std::shared_ptr<QmpClient> qmp);
  static Task<void> WatchProcess(std::shared_ptr<QemuMachine> self);
  static Task<void> EndLater(std::shared_ptr<QemuMachine> self, SystemExit::Cause cause);
  static Task<void> TellLost(std::shared_ptr<QemuMachine> self, std::string what);

  Task<absl::Status> AwaitDeleted(std::string device);
  using SettingChanges =
      boost::json::object (MigrationSettingsMirror::*)(const boost::json::object&) const;
  using NoteSettings = void (MigrationSettingsMirror::*)(const boost::json::object&);
  Task<absl::Status> SetMigration(const char* command, boost::json::object arguments,
                                  SettingChanges changes_of, NoteSettings note);
  absl::Status MakeFolder();
  Task<absl::Status> ServeFolders();
  Task<absl::Status> Continue();
  Task<absl::Status> PlugCards();
  bool has_cards() const { return !document_.virtual_machine.devices.network_adapters.empty(); }
  static Task<void> Announce(std::shared_ptr<QemuMachine> self);
  // For a guest that runs without our having let it.
  static Task<void> RejoinNetworks(std::shared_ptr<QemuMachine> self);
  absl::Status StartProcess(bool incoming);
  absl::Status ConnectMonitor();
  absl::Status AttachLink();
  void TakeBackKept();
  // Nobody wants what a former daemon had QEMU write.
  void DrainStatePipe();
  void AttachConsole();
  void HandleEvent(const QmpEvent& event);
  void HandleEnd(const ProcessEnd& end);
  std::string LastWords() const;

  std::shared_ptr<const QemuHost> host_;
  const std::string id_;
  schema::ComputeSystem document_;
  std::unique_ptr<GuestLink> link_;
  schema::SystemState state_ = schema::SystemState::kCreated;
  bool took_state_ = false;
  bool disk_stops_it_ = false;
  uint64_t stops_ = 0;  // of which QEMU has told
  std::string folder_;
  UniqueFd folder_fd_;
  std::string cgroup_;  // empty: the daemon's own
  std::unique_ptr<QemuProcess> process_;
  FolderServers folder_servers_;
  QemuCards cards_;
  bool keeps_descriptor_ = false;
  bool keeps_pipe_ = false;
  std::optional<StreamRelay> state_relay_;
  std::shared_ptr<QmpClient> qmp_;
  std::shared_ptr<ConsoleLog> console_;  // nullptr: nobody listens
  AsyncQueue<SystemEvent> events_;
  AsyncEvent ended_;
  AsyncEvent told_all_;  // nothing more is read from its monitor
  AsyncEvent device_deleted_;
  MigrationSettingsMirror settings_;
  AsyncMutex settings_mutex_;  // held while they change
  std::set<std::string> deleted_devices_;
  MigrationObserver* observer_ = nullptr;
  std::optional<SystemExit::Cause> cause_;
  std::chrono::steady_clock::time_point started_{};
  std::string last_words_;  // kept when the folder goes
  bool detached_ = false;
  std::optional<milliseconds> silence_;
  std::map<uint64_t, std::function<void(const QmpEvent&)>> event_taps_;
  uint64_t next_tap_ = 0;
};

}  // namespace ferry::vm
