#include "tools/ferryd/daemon.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/protocol/message_types.h"
#include "bridge/runtime/host_port.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/transport/vsock.h"
#include "migration/connection/frame.h"
#include "migration/controller/session_registry.h"
#include "migration/preflight/preflight.h"
#include "migration/service/grpc_peer_client.h"
#include "migration/service/migration_jobs.h"
#include "migration/service/migration_service.h"
#include "tools/ferryd/priority.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/fence/image_lock_fence.h"
#include "vmmanager/identity/certificate.h"
#include "vmmanager/images/child_tool_runner.h"
#include "vmmanager/images/image_importer.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/network/linux_host_network.h"
#include "vmmanager/qemu/cgroup.h"
#include "vmmanager/qemu/qemu_backend.h"
#include "vmmanager/qemu/qemu_process.h"
#include "vmmanager/qemu/serial_guest_link.h"
#include "vmmanager/qemu/vsock_guest_link.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/saving/checkpoints.h"
#include "vmmanager/saving/container_scratch.h"
#include "vmmanager/saving/host_turns.h"
#include "vmmanager/saving/interrupted_jobs.h"
#include "vmmanager/saving/qemu_img_overlays.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/snapshots.h"
#include "vmmanager/service/checkpoint_service.h"
#include "vmmanager/service/container_service.h"
#include "vmmanager/service/disk_service.h"
#include "vmmanager/service/guest_service.h"
#include "vmmanager/service/host_service.h"
#include "vmmanager/service/image_service.h"
#include "vmmanager/service/job_service.h"
#include "vmmanager/service/snapshot_service.h"
#include "vmmanager/service/vm_service.h"
#include "vmmanager/state/saved_state.h"
#include "vmmanager/store/migrations.h"

namespace ferry::tools {
namespace {

constexpr milliseconds kCallGrace{2'000};
constexpr milliseconds kFolderLookLimit{10'000};
// What imports leave free of the disk that the journal is on, too.
constexpr uint64_t kImagesReserve = uint64_t{1} << 30;

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make folder ", path, ": ", error.message()));
  }
  if (::chmod(path.c_str(), 0700) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot close folder ", path, " to others: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

// The group may go through the folder, but not list it.
absl::Status LetGroupPass(const std::string& path, gid_t group) {
  if (::chown(path.c_str(), static_cast<uid_t>(-1), group) == 0 &&
      ::chmod(path.c_str(), 0710) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open folder ", path, " to QEMU's user"));
}

// Others may look in; who may use a socket is the socket's own affair.
absl::Status MakeSocketFolder() {
  const std::string folder = std::filesystem::path(rpc::kDefaultSocket).parent_path();
  if (::mkdir(folder.c_str(), 0755) != 0) {
    if (errno == EEXIST) return absl::OkStatus();
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot make folder ", folder, "; --socket names another place"));
  }
  ::chmod(folder.c_str(), 0755);  // the umask is strict
  return absl::OkStatus();
}

// The path of a program that is installed with this one.
std::string BesideUs(const std::string& program) {
  std::error_code ignored;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return own.parent_path() / program;
}

vm::ProgramInfo Program() {
  return {.version = FERRY_VERSION,
          .formats = {{"session_connection", migration::kConnectionVersion},
                      {"saved_state", vm::kStateSchemaVersion},
                      {"bridge", bridge::kProtocolVersion},
                      {"store", vm::kStoreVersion}}};
}

absl::Status NameTheFlag(const absl::Status& not_listening) {
  return rpc::ErrorWithReason(
      not_listening.code(), not_listening.message(), "address_not_available",
      "Give another address with --migration-listen, or end the process that has the port (ss "
      "-ltnp lists them).");
}

// On many systems the host's own name stands for its loopback address.
void WarnIfUnreachable(const migration::SessionListener& listener) {
  const std::string& told = listener.address();
  const std::string& bound = listener.bound_address();
  if (IsWildcard(told)) {
    spdlog::warn(
        "sources of migrations are told to dial {}, which is no host's address; set "
        "--advertise or --migration-advertise",
        told);
  } else if (IsLoopback(bound) && !IsLoopback(told)) {
    spdlog::warn(
        "migrations arrive at {}, which other hosts cannot reach, though they are told to "
        "dial {}; set --migration-listen 0.0.0.0:PORT",
        bound, told);
  }
}

// Empty: QEMU shares our control group, because nothing better was asked for or is possible.
absl::StatusOr<std::string> CgroupParent(const std::string& setting) {
  absl::StatusOr<std::string> parent = vm::ChooseCgroupParent(setting);
  if (!parent.ok() && setting == "auto") {
    spdlog::warn("QEMU runs in ferryd's own control group, so what ends that ends the VMs: {}",
                 std::string(parent.status().message()));
    return std::string();
  }
  if (parent.ok() && !parent->empty()) spdlog::info("QEMU's control groups are in {}", *parent);
  return parent;
}

}  // namespace

// In the order of their making; destroyed in the opposite one.
struct Daemon::Parts {
  std::unique_ptr<rpc::AuditLog> audit;
  std::shared_ptr<identity::CertificateFiles> certificates;  // nullptr: no TLS
  std::unique_ptr<vm::Store> store;
  std::unique_ptr<vm::EventLog> events;
  std::optional<vm::ProcessUser> qemu_user;  // nullopt: QEMU runs as we do
  int former_niceness = 0;
  std::shared_ptr<bridge::VsockPortRegistry> vsock_ports;
  std::unique_ptr<vm::ImageLockFence> fence;
  std::unique_ptr<vm::Backend> backend;
  vm::HostSettings settings;
  std::unique_ptr<vm::FileReads> folder_reads;
  std::unique_ptr<vm::FileReads> host_reads;
  std::unique_ptr<vm::ToolRunner> disk_tools;
  std::unique_ptr<vm::OverlayFiles> overlays;
  std::unique_ptr<vm::OverlayFiles> listed_disks;  // one that hangs holds up nobody else's
  vm::ContainerScratch scratch;
  std::unique_ptr<vm::VmInventory> inventory;
  std::unique_ptr<vm::ContainerInventory> containers;
  std::unique_ptr<vm::ContainerExports> exports;
  std::unique_ptr<vm::ImageStore> images;
  std::unique_ptr<vm::ToolRunner> tools;
  std::unique_ptr<vm::ImageImporter> importer;
  std::unique_ptr<vm::FileReads> file_reads;
  std::unique_ptr<vm::ImageDigests> digests;
  std::unique_ptr<migration::SessionListener> listener;
  std::unique_ptr<migration::SocketHandoff> handoff;
  std::unique_ptr<migration::ControllerDeps> deps;
  std::unique_ptr<migration::SessionRegistry> sessions;
  std::unique_ptr<migration::Preflight> preflight;
  std::unique_ptr<vm::JobRegistry> jobs;
  std::unique_ptr<migration::MigrationJobs> migration_jobs;
  std::unique_ptr<vm::SavedStates> saves;
  std::unique_ptr<vm::Disks> disks;
  std::unique_ptr<vm::DiskService> disk_service;
  std::unique_ptr<vm::Snapshots> snapshots;
  std::unique_ptr<vm::SnapshotService> snapshot_service;
  std::unique_ptr<vm::Checkpoints> checkpoints;
  std::unique_ptr<vm::CheckpointService> checkpoint_service;
  std::unique_ptr<vm::VmService> vm_service;
  std::unique_ptr<vm::GuestService> guest_service;
  std::unique_ptr<vm::HostService> host_service;
  std::unique_ptr<migration::MigrationService> migration_service;
  std::unique_ptr<vm::ImageService> image_service;
  std::unique_ptr<vm::ContainerService> container_service;
  std::unique_ptr<vm::JobService> job_service;
  std::unique_ptr<rpc::Server> server;
};

Daemon::Daemon(Executor executor, FerrydConfig config)
    : executor_(std::move(executor)),
      config_(std::move(config)),
      parts_(std::make_unique<Parts>()) {}

Daemon::~Daemon() = default;

absl::Status Daemon::PrepareFolders() {
  RETURN_IF_ERROR(MakeFolder(config_.state_dir));
  RETURN_IF_ERROR(MakeFolder(config_.state_dir + "/vm"));
  RETURN_IF_ERROR(MakeFolder(config_.state_dir + "/mig"));
  RETURN_IF_ERROR(MakeFolder(config_.state_dir + "/spool"));
  RETURN_IF_ERROR(MakeFolder(config_.state_dir + "/saved"));
  RETURN_IF_ERROR(MakeFolder(config_.state_dir + "/firmware"));
  if (!config_.qemu_user.empty()) {
    ASSIGN_OR_RETURN(parts_->qemu_user, vm::FindProcessUser(config_.qemu_user));
    // QEMU has to reach the private sockets of migrations, and its firmware's variable store.
    for (const char* folder : {"", "/mig", "/firmware"}) {
      RETURN_IF_ERROR(LetGroupPass(config_.state_dir + folder, parts_->qemu_user->gid));
    }
  }
  // An administrator's own choice of a folder must be there; the usual one goes with each boot.
  if (config_.socket == rpc::kDefaultSocket) return MakeSocketFolder();
  return absl::OkStatus();
}

Task<absl::Status> Daemon::Start() {
  // Before there are other threads.
  parts_->former_niceness = SetNiceness(config_.nice);
  CO_RETURN_IF_ERROR(PrepareFolders());
  CO_RETURN_IF_ERROR(OpenCertificates());
  CO_ASSIGN_OR_RETURN(parts_->store,
                      vm::OpenSqliteStore(config_.state_dir + "/ferry.db", executor_));
  CO_ASSIGN_OR_RETURN(parts_->audit, rpc::AuditLog::Open(config_.state_dir + "/audit.log"));
  // The private sockets of sessions die with the daemon that made them; that no other one uses the
  // folder is sure, for we hold the store.
  std::error_code ignored;
  for (const auto& left :
       std::filesystem::directory_iterator(config_.state_dir + "/mig", ignored)) {
    std::filesystem::remove_all(left.path(), ignored);
  }
  absl::Status intact = co_await parts_->store->VerifyJournal();
  if (!intact.ok()) {
    spdlog::error(
        "the journal may have lost records: {}. VMs of migrations that were under way "
        "stay paused until the other host has answered.",
        intact.ToString());
  }
  parts_->events = std::make_unique<vm::EventLog>(executor_, *parts_->store);
  CO_RETURN_IF_ERROR(co_await OpenFence());
  CO_RETURN_IF_ERROR(co_await OpenBackend());

  parts_->settings.advertised_address = config_.advertise;
  parts_->settings.kernel = config_.kernel;
  parts_->settings.initrd = config_.initrd;
  parts_->settings.kernel_args = config_.kernel_args;
  parts_->settings.firmware.folder = config_.state_dir + "/firmware";
  parts_->settings.firmware.code = config_.ovmf_code;
  parts_->settings.firmware.variables = config_.ovmf_variables;
  if (const auto& user = parts_->qemu_user) {
    parts_->settings.firmware.owner = {user->uid, user->gid};
  }
  parts_->settings.use_vsock = UsesVsock(config_, [this] { return VsockWorks(); });
  spdlog::info("agents of VMs that are made from now on are reached over {}",
               parts_->settings.use_vsock ? "vsock" : "virtio-serial");
  parts_->settings.boot_timeout = config_.boot_timeout;
  parts_->settings.answer_wait = config_.answer_timeout;
  parts_->settings.state_folder = config_.state_dir;
  parts_->settings.memory_reserve_mb = config_.memory_reserve_mb;
  parts_->settings.spool_folder = config_.state_dir + "/spool";
  // Folders that users name and that hang must not keep migrations from reading their files.
  parts_->folder_reads = std::make_unique<vm::ThreadedFileReads>(executor_, kFolderLookLimit);
  parts_->host_reads = std::make_unique<vm::ThreadedFileReads>(executor_);
  // Who may write to VMs' disks merges them, too.
  parts_->disk_tools = std::make_unique<vm::ChildToolRunner>(executor_, parts_->qemu_user);
  parts_->overlays = std::make_unique<vm::QemuImgOverlays>(executor_, *parts_->disk_tools);
  parts_->listed_disks = std::make_unique<vm::QemuImgOverlays>(executor_, *parts_->disk_tools);
  const vm::SandboxDeps sandbox{
      executor_,      *parts_->backend,       *parts_->store,        *parts_->events,
      *parts_->fence, parts_->settings,       *parts_->folder_reads, *parts_->host_reads,
      Failpoint(),    parts_->overlays.get(), &parts_->scratch};
  parts_->inventory = std::make_unique<vm::VmInventory>(sandbox);
  parts_->file_reads = std::make_unique<vm::ThreadedFileReads>(executor_);
  parts_->digests = std::make_unique<vm::ImageDigests>(*parts_->file_reads);
  CO_RETURN_IF_ERROR(co_await parts_->inventory->Load());
  CO_RETURN_IF_ERROR(co_await LoadContainers());
  CO_RETURN_IF_ERROR(OpenMigration());
  CO_RETURN_IF_ERROR(co_await parts_->sessions->Load(
      intact.ok() ? migration::JournalTrust::kWhole : migration::JournalTrust::kMayLackRecords));
  co_await parts_->inventory->AdoptAll(parts_->sessions->Claims());
  co_await parts_->sessions->Recover();
  parts_->jobs = std::make_unique<vm::JobRegistry>(executor_, *parts_->store, *parts_->events);
  vm::JobRegistry::Verdict verdict = vm::JudgeInterrupted(*parts_->inventory);
  CO_RETURN_IF_ERROR(co_await parts_->jobs->Load(std::move(verdict)));
  MakeSaves();
  co_await parts_->saves->Sweep();
  co_await parts_->checkpoints->Sweep();
  Spawn(executor_, parts_->checkpoints->Settle());
  parts_->disks->Settle();
  MakeImages();
  // Containers are taken up before anybody can ask for them. VMs do without images, and a slow disk
  // may take long; who asks for one meanwhile is told.
  const bool needs_images = !parts_->containers->empty();
  if (needs_images) co_await OpenImages();
  CO_RETURN_IF_ERROR(Serve());
  if (!needs_images) Spawn(executor_, OpenImages());
  Spawn(executor_, vm::StartAfterBoot(*parts_->inventory, *parts_->saves,
                                      config_.state_dir + "/autostarted", vm::BootId()));
  parts_->events->Publish("host.started", parts_->store->journal_id(),
                          {{"address", config_.advertise}});
  spdlog::info("serving {}{}{}", config_.socket, config_.listen.empty() ? "" : " and ",
               config_.listen.empty() ? "" : config_.listen.front());
  co_return absl::OkStatus();
}

// QEMU opens the device, too, as whoever it runs as.
bool Daemon::VsockWorks() const {
  if (!bridge::VsockAvailable()) return false;
  const auto& user = parts_->qemu_user;
  return !user || vm::MayReadAndWrite(*user, bridge::kVhostVsock);
}

// A folder that was asked for must be there: what is made in place of a file system that is not
// mounted fences nobody.
Task<absl::Status> Daemon::OpenFence() {
  vm::ImageLockOptions locks;
  locks.folder = config_.fence_lock_dir;
  locks.shared = !locks.folder.empty();
  locks.host_id = parts_->store->journal_id();
  locks.address = config_.advertise;
  if (!locks.shared) {
    locks.folder = config_.state_dir + "/lock";
    CO_RETURN_IF_ERROR(MakeFolder(locks.folder));
  }
  auto fence = co_await vm::ImageLockFence::Open(executor_, std::move(locks));
  if (!fence.ok()) co_return fence.status();
  parts_->fence = *std::move(fence);
  co_return absl::OkStatus();
}

Task<absl::Status> Daemon::OpenBackend() {
  vm::QemuBackendConfig qemu;
  qemu.binary = config_.qemu;
  qemu.virtiofsd = config_.virtiofsd;
  qemu.state_dir = config_.state_dir + "/vm";
  qemu.allow_kvm = !config_.no_kvm;
  parts_->vsock_ports =
      std::make_shared<bridge::VsockPortRegistry>(executor_, bridge::MakeVsockSockets());
  qemu.make_link = [ports = parts_->vsock_ports](Executor executor,
                                                 uint32_t cid) -> std::unique_ptr<vm::GuestLink> {
    if (cid != 0) {
      auto transport = ports->MakeTransport(cid);
      if (transport.ok()) return std::make_unique<vm::VsockGuestLink>(*std::move(transport));
      spdlog::error("no vsock link for context id {}: {}", cid, transport.status().ToString());
    }
    return std::make_unique<vm::SerialGuestLink>(std::move(executor));
  };
  qemu.kept = vm::KeptDescriptor{
      .of = [fence = parts_->fence.get()](const std::string& id) { return fence->Descriptor(id); },
      .take_back = [fence = parts_->fence.get()](
                       const std::string& id,
                       absl::StatusOr<UniqueFd> kept) { fence->TakeBack(id, std::move(kept)); }};
  vm::LinuxHostNetwork::Options network;
  network.bridges = config_.bridges;
  qemu.network = std::make_shared<vm::LinuxHostNetwork>(executor_, std::move(network));
  qemu.user = parts_->qemu_user;
  qemu.niceness = parts_->former_niceness;
  CO_ASSIGN_OR_RETURN(qemu.cgroup_parent, CgroupParent(config_.cgroup));
  auto backend = co_await vm::QemuBackend::Open(executor_, std::move(qemu));
  if (!backend.ok()) co_return backend.status();
  parts_->backend = *std::move(backend);
  const vm::BackendInfo& info = parts_->backend->info();
  spdlog::info("{} {} with {} ({}), machine {}", info.name, info.version, info.accelerator,
               info.accelerator_reason, info.machine_type);
  co_return absl::OkStatus();
}

// Where tests have the daemon die, or stand still once.
std::function<void(const std::string&)> Daemon::Failpoint() const {
#ifdef FERRY_FAILPOINTS
  if (config_.failpoint.empty()) return nullptr;
  std::set<std::string> wanted = absl::StrSplit(config_.failpoint, ',');
  return [wanted](const std::string& point) mutable {
    // As hard as it gets: nothing is flushed, nobody is told.
    if (wanted.contains(point)) ::kill(::getpid(), SIGKILL);
    if (wanted.erase(absl::StrCat(point, "=stop")) > 0) ::raise(SIGSTOP);
  };
#else
  return nullptr;
#endif
}

Task<absl::Status> Daemon::LoadContainers() {
  vm::ContainerInventory::Options options;
  options.scratch_folder = config_.state_dir + "/containers";
  options.scratch_user = parts_->qemu_user;
  options.make_machine = [settings = &parts_->settings](std::shared_ptr<vm::UtilityVm> vm) {
    return vm::MakeContainerMachine(std::move(vm), *settings);
  };
  options.audit = parts_->audit.get();
  parts_->containers =
      std::make_unique<vm::ContainerInventory>(*parts_->inventory, std::move(options));
  parts_->scratch.set_containers(parts_->containers.get());
  co_return co_await parts_->containers->Load();
}

void Daemon::MakeImages() {
  vm::ImageStore::Options options;
  options.folder = config_.state_dir + "/images";
  if (parts_->qemu_user) options.readers = parts_->qemu_user->gid;
  parts_->images = std::make_unique<vm::ImageStore>(executor_, std::move(options));
  parts_->tools = std::make_unique<vm::ChildToolRunner>(executor_, vm::UserForTools());
  vm::ImageImporter::Options import;
  import.builder = BesideUs("ferry-layers");
  import.limits.reserve = kImagesReserve;
  parts_->importer =
      std::make_unique<vm::ImageImporter>(*parts_->images, *parts_->tools, std::move(import));
}

// What needs images to be taken up is taken up at its end.
Task<void> Daemon::OpenImages() {
  const absl::Status opened = co_await parts_->images->Open();
  if (!opened.ok()) spdlog::error("there are no images: {}", std::string(opened.message()));
  co_await parts_->containers->TakeUp(*parts_->images);
}

absl::Status Daemon::OpenCertificates() {
  if (config_.tls.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(parts_->certificates, identity::CertificateFiles::Open(config_.tls));
  ASSIGN_OR_RETURN(const auto leaf,
                   identity::ParseCertificate(parts_->certificates->Current()->cert));
  const identity::Validity validity =
      identity::ValidityAt(identity::Describe(leaf.get()), std::time(nullptr));
  if (validity != identity::Validity::kValid) {
    spdlog::warn("{} {}: nobody will accept it, and nobody is served over TCP", config_.tls.cert,
                 validity == identity::Validity::kExpired ? "has expired" : "is not valid yet");
  }
  ASSIGN_OR_RETURN(const identity::Identity own, identity::IdentityOf(leaf.get()));
  if (!own.roles.Has(identity::Role::kPeer)) {
    spdlog::warn(
        "{} has not the role peer: other hosts will refuse migrations from and to this one; "
        "ferryctl pki issue NAME --role peer makes one that has",
        config_.tls.cert);
  }
  return absl::OkStatus();
}

void Daemon::AuditRefusedSession(const migration::RefusedConnection& refused) {
  rpc::AuditRecord record;
  record.time = std::chrono::system_clock::now();
  if (parts_->certificates) {
    record.caller.way = rpc::Caller::Way::kCertificate;
    record.caller.identity = refused.peer;
  }
  record.caller.address = refused.address;
  record.method = "session connection";
  record.details = {{"message", refused.why}};
  if (!refused.session_id.empty()) record.details["session_id"] = refused.session_id;
  record.outcome = absl::StatusCodeToString(absl::StatusCode::kPermissionDenied);
  record.reason = "session_connection_refused";
  parts_->audit->WriteRefusal(record);
}

absl::Status Daemon::OpenMigration() {
  std::shared_ptr<migration::TlsContext> tls;
  if (parts_->certificates) tls = migration::MakeTlsContext(parts_->certificates);
  migration::ListenerOptions listen;
  listen.address = config_.migration_listen;
  listen.advertised = config_.migration_advertise;
  listen.tls = tls;
  listen.refused = [this](const migration::RefusedConnection& refused) {
    AuditRefusedSession(refused);
  };
  auto listener = migration::SessionListener::Listen(executor_, listen);
  if (absl::IsUnavailable(listener.status())) return NameTheFlag(listener.status());
  RETURN_IF_ERROR(listener.status());
  parts_->listener = *std::move(listener);
  WarnIfUnreachable(*parts_->listener);
  migration::HandoffOptions handoff;
  handoff.path = config_.state_dir + "/handoff.sock";
  // A daemon that crashed leaves its socket; that no other one runs is sure, for we hold the store.
  ::unlink(handoff.path.c_str());
  ASSIGN_OR_RETURN(parts_->handoff, migration::SocketHandoff::Listen(executor_, handoff));
  auto make_peer = [certificates = parts_->certificates](const std::string& address) {
    return migration::MakeGrpcPeerClient(address, certificates);
  };
  parts_->deps = std::make_unique<migration::ControllerDeps>(
      migration::ControllerDeps{*parts_->inventory, *parts_->digests, *parts_->listener,
                                *parts_->handoff, make_peer, tls, config_.state_dir + "/mig"});
  parts_->exports = std::make_unique<vm::ContainerExports>(*parts_->containers);
  parts_->deps->containers = parts_->containers.get();
  parts_->deps->exports = parts_->exports.get();
  parts_->deps->image_reserve = kImagesReserve;
  if (const auto& user = parts_->qemu_user) parts_->deps->vmm_owner = {user->uid, user->gid};
  parts_->deps->limits.stall = config_.stall_timeout;
  if (auto failpoint = Failpoint()) parts_->deps->failpoint = std::move(failpoint);
  parts_->sessions = std::make_unique<migration::SessionRegistry>(*parts_->deps);
  return absl::OkStatus();
}

void Daemon::MakeSaves() {
  vm::SavedStatesOptions options;
  options.folder = config_.state_dir + "/saved";
  options.state_folder = config_.state_dir;
  options.socket_folder = config_.state_dir + "/mig";
  options.save_on_stop = config_.save_on_stop;
  options.jobs = parts_->jobs.get();
  if (const auto& user = parts_->qemu_user) options.vmm_owner = {user->uid, user->gid};
  parts_->disks =
      std::make_unique<vm::Disks>(*parts_->inventory, parts_->containers.get(),
                                  *parts_->listed_disks, options.jobs, options.vmm_owner);
  parts_->saves = std::make_unique<vm::SavedStates>(*parts_->inventory, parts_->containers.get(),
                                                    *parts_->digests, std::move(options));
  parts_->snapshots = std::make_unique<vm::Snapshots>(*parts_->inventory, parts_->containers.get(),
                                                      parts_->jobs.get());
  vm::CheckpointsOptions checkpoints;
  checkpoints.folder = config_.state_dir + "/checkpoints";
  checkpoints.state_folder = config_.state_dir;
  checkpoints.jobs = parts_->jobs.get();
  parts_->checkpoints =
      std::make_unique<vm::Checkpoints>(*parts_->inventory, parts_->containers.get(),
                                        *parts_->saves, *parts_->digests, std::move(checkpoints));
}

absl::Status Daemon::Serve() {
  parts_->vm_service = std::make_unique<vm::VmService>(*parts_->inventory, *parts_->saves);
  parts_->disk_service = std::make_unique<vm::DiskService>(*parts_->disks);
  parts_->snapshot_service = std::make_unique<vm::SnapshotService>(*parts_->snapshots);
  parts_->checkpoint_service = std::make_unique<vm::CheckpointService>(*parts_->checkpoints);
  parts_->guest_service =
      std::make_unique<vm::GuestService>(*parts_->inventory, parts_->containers.get());
  parts_->host_service = std::make_unique<vm::HostService>(*parts_->inventory, Program());
  migration::Preflight::Settings preflight{.program = Program(), .certificate = config_.tls.cert};
  parts_->preflight = std::make_unique<migration::Preflight>(*parts_->deps, *parts_->sessions,
                                                             std::move(preflight));
  parts_->migration_service = std::make_unique<migration::MigrationService>(
      *parts_->sessions, *parts_->preflight, executor_);
  parts_->image_service =
      std::make_unique<vm::ImageService>(executor_, *parts_->images, *parts_->importer,
                                         vm::ImageService::Limits(), parts_->jobs.get());
  parts_->container_service = std::make_unique<vm::ContainerService>(*parts_->containers);
  parts_->migration_jobs = std::make_unique<migration::MigrationJobs>(*parts_->sessions);
  parts_->job_service = std::make_unique<vm::JobService>(
      executor_, std::vector<vm::JobSource*>{parts_->jobs.get(), parts_->migration_jobs.get()});
  rpc::ServerOptions options;
  options.unix_socket = config_.socket;
  options.tcp_addresses = config_.listen;
  options.tls = parts_->certificates;
  options.audit = parts_->audit.get();
  options.insecure_tcp = config_.insecure_tcp;
  const std::vector<grpc::Service*> services{
      parts_->vm_service.get(),         parts_->guest_service.get(),
      parts_->host_service.get(),       parts_->migration_service.get(),
      parts_->image_service.get(),      parts_->container_service.get(),
      parts_->job_service.get(),        parts_->snapshot_service.get(),
      parts_->checkpoint_service.get(), parts_->disk_service.get()};
  ASSIGN_OR_RETURN(parts_->server, rpc::Server::Start(options, services));
  return absl::OkStatus();
}

Task<void> Daemon::Stop() {
  using asio::experimental::awaitable_operators::operator&&;
  if (config_.stop_vms && parts_->server) {
    spdlog::info("stopping all VMs");
    vm::HostDownOptions options;
    options.within = config_.stop_vms_within;
    options.or_shutdown = config_.unattended_save == "shutdown";
    co_await vm::StopAll(*parts_->inventory, *parts_->saves, options);
  }
  spdlog::info("stopping; VMs that run run on");
  // New calls are refused from here on. Those that run end because what they wait for does.
  co_await (StopServing() && LetGo());
  if (parts_->listener) parts_->listener->Close();
  if (parts_->handoff) parts_->handoff->Close();
}

Task<void> Daemon::StopServing() {
  if (parts_->server) co_await parts_->server->Shutdown(kCallGrace);
}

Task<void> Daemon::LetGo() {
  if (parts_->sessions) co_await parts_->sessions->Shutdown();
  if (parts_->containers) co_await parts_->containers->Close();
  if (parts_->inventory) co_await parts_->inventory->Detach();
  if (parts_->jobs) co_await parts_->jobs->Close();
  if (parts_->events) co_await parts_->events->Close();
}

}  // namespace ferry::tools
