#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/transport/stream_connection.h"
#include "vmmanager/backend/fake_backend.h"

// The fake's migration verbs. They really move bytes: numbered pages, then the guest's counter, and
// an answer back when the destination has taken it.
namespace ferry::vm {
namespace {

using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::MigrationResult;
using schema::SystemState;

constexpr char kPage = 'P';
constexpr char kState = 'S';
constexpr char kTaken = 'A';
constexpr size_t kHeaderBytes = 17;  // type, two numbers

std::string Header(char type, uint64_t first, uint64_t second) {
  std::string bytes(kHeaderBytes, type);
  std::memcpy(&bytes[1], &first, sizeof first);
  std::memcpy(&bytes[9], &second, sizeof second);
  return bytes;
}

Task<absl::Status> ReadFully(bridge::Connection* channel, std::span<char> buffer) {
  while (!buffer.empty()) {
    CO_ASSIGN_OR_RETURN(const size_t count, co_await channel->Read(buffer));
    if (count == 0) co_return absl::AbortedError("the migration stream ended too early");
    buffer = buffer.subspan(count);
  }
  co_return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenSocket(const std::string& path, bool listen) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(StrCat("not a usable socket path: \"", path, "\""));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  const int result =
      listen ? ::bind(fd.get(), raw, sizeof address) : ::connect(fd.get(), raw, sizeof address);
  if (result != 0 || (listen && ::listen(fd.get(), 4) != 0)) {
    return absl::UnavailableError(
        StrCat("cannot ", listen ? "listen on " : "connect to ", path, ": ", std::strerror(errno)));
  }
  return fd;
}

// Runs `task` until it ends or `cancel` is set; then it is dropped and CANCELLED is returned.
Task<absl::Status> UnlessCancelled(Task<absl::Status> task, AsyncEvent* cancel) {
  using asio::experimental::awaitable_operators::operator||;
  if (cancel->is_set()) co_return absl::CancelledError("the migration was cancelled");
  try {
    auto result = co_await (std::move(task) || cancel->Wait());
    if (result.index() == 0) co_return std::get<0>(std::move(result));
  } catch (const asio::multiple_exceptions&) {
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  co_return absl::CancelledError("the migration was cancelled");
}

}  // namespace

void FakeComputeSystem::Tell(MigrationEventName name, MigrationResult result) {
  SystemEvent event{.kind = SystemEvent::Kind::kMigration};
  event.migration = {machine_->origin, name, result, ""};
  if (name == MigrationEventName::kBlackoutExited) {
    event.migration.additional_details_json = R"({"BlackoutDurationMilliseconds":0})";
  }
  Emit(std::move(event));
}

Task<absl::Status> FakeComputeSystem::Start(const schema::StartOptions& options,
                                            const MigrationEndpoint* endpoint) {
  const bool incoming = options.destination_migration_options.has_value();
  const std::string path = endpoint == nullptr ? "" : endpoint->unix_path;
  CO_RETURN_IF_ERROR(co_await script_->Pass("Start"));
  if (machine_->state != SystemState::kCreated) co_return WrongState("start");
  if (!incoming) {
    SetRunning(true);
    co_return absl::OkStatus();
  }
  CO_ASSIGN_OR_RETURN(listener_, OpenSocket(path, true));
  unix_path_ = path;
  machine_->origin = MigrationOrigin::kDestination;
  machine_->stage = Stage::kStarted;
  machine_->state = SystemState::kIncoming;
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Save(const schema::SaveOptions&, UniqueFd stream) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Save"));
  if (machine_->state != SystemState::kPaused) co_return WrongState("save");
  co_return WriteState(stream, machine_->counter);
}

absl::Status FakeComputeSystem::WriteState(const UniqueFd& stream, uint64_t counter) {
  // A pipe holds that much.
  const std::string state = Header(kState, counter, 0);
  if (::write(stream.get(), state.data(), state.size()) == static_cast<ssize_t>(state.size())) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(StrCat("cannot write the state: ", std::strerror(errno)));
}

Task<absl::Status> FakeComputeSystem::InitializeLiveMigrationOnSource(
    const schema::MigrationInitializeOptions& options) {
  const bool wrong_origin = options.origin == MigrationOrigin::kDestination;
  CO_RETURN_IF_ERROR(co_await script_->Pass("InitializeLiveMigrationOnSource"));
  const bool alive =
      machine_->state == SystemState::kRunning || machine_->state == SystemState::kPaused;
  if (!alive || machine_->stage != Stage::kNone) co_return WrongState("begin a migration");
  if (wrong_origin) co_return absl::InvalidArgumentError("Origin must be Source on the source");
  machine_->origin = MigrationOrigin::kSource;
  machine_->stage = Stage::kInitialized;
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::StartLiveMigrationOnSource(
    const schema::MigrationStartOptions&, const MigrationEndpoint& endpoint) {
  const std::string path = endpoint.unix_path;
  CO_RETURN_IF_ERROR(co_await script_->Pass("StartLiveMigrationOnSource"));
  if (machine_->stage != Stage::kInitialized || machine_->origin != MigrationOrigin::kSource) {
    co_return WrongState("start a migration that was not initialized");
  }
  unix_path_ = path;
  machine_->stage = Stage::kStarted;
  Tell(MigrationEventName::kSetupDone);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::StartLiveMigrationTransfer(
    const schema::MigrationTransferOptions& options, TransferHooks hooks) {
  if (machine_->stage != Stage::kStarted || options.origin != machine_->origin) {
    co_return WrongState("transfer; the migration was not started");
  }
  struct SetOnExit {
    AsyncEvent* event;
    ~SetOnExit() { event->Set(); }
  } over{&transfer_over_};
  transfer_over_.Reset();
  cancel_.Reset();
  cancelled_ = false;
  blackout_told_ = false;
  forced_.reset();
  machine_->stage = Stage::kTransferring;
  machine_->ran_before = machine_->state == SystemState::kRunning;
  absl::Status status = co_await UnlessCancelled(RunTransfer(std::move(hooks)), &cancel_);
  if (status.ok()) {
    machine_->stage = Stage::kTransferred;
    if (machine_->origin == MigrationOrigin::kSource) Tell(MigrationEventName::kOfflineDone);
    co_return status;
  }
  co_return RollBack(status);
}

Task<absl::Status> FakeComputeSystem::RunTransfer(TransferHooks hooks) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Transfer"));
  if (machine_->origin == MigrationOrigin::kSource)
    co_return co_await TransferOut(std::move(hooks));
  co_return co_await TransferIn();
}

absl::Status FakeComputeSystem::RollBack(absl::Status reason) {
  machine_->stage = Stage::kNone;
  if (exited_) {
    return cancelled_ ? reason : absl::AbortedError("the VM ended during its migration");
  }
  if (machine_->origin == MigrationOrigin::kDestination) {
    machine_->stage = Stage::kStarted;
    return reason;
  }
  if (machine_->ran_before && machine_->state == SystemState::kPaused) SetRunning(true);
  Tell(MigrationEventName::kMigrationFailed, absl::IsCancelled(reason)
                                                 ? MigrationResult::kMigrationCancelled
                                                 : MigrationResult::kSourceMigrationFailed);
  return reason;
}

Task<absl::Status> FakeComputeSystem::TransferOut(TransferHooks hooks) {
  CO_ASSIGN_OR_RETURN(UniqueFd fd, OpenSocket(unix_path_, false));
  bridge::StreamSocketConnection channel(executor_, std::move(fd));
  CO_RETURN_IF_ERROR(co_await SendMemory(channel));
  co_return co_await SwitchOver(channel, hooks);
}

Task<absl::Status> FakeComputeSystem::SendMemory(bridge::Connection& channel) {
  Tell(MigrationEventName::kTransferInProgress);
  for (uint64_t page = 0; page < script_->pages; ++page) {
    CO_RETURN_IF_ERROR(co_await script_->Pass("Page"));
    const std::string bytes =
        Header(kPage, page, script_->page_bytes) + std::string(script_->page_bytes, 'm');
    CO_RETURN_IF_ERROR(co_await channel.Write(bytes));
    SystemEvent event{.kind = SystemEvent::Kind::kTransferProgress};
    event.progress = ProgressAfter(page + 1);
    Emit(std::move(event));
  }
  co_return absl::OkStatus();
}

TransferProgress FakeComputeSystem::ProgressAfter(uint64_t pages) const {
  TransferProgress progress;
  progress.pass = 1;
  progress.transferred_bytes = pages * script_->page_bytes;
  progress.total_bytes = script_->pages * script_->page_bytes;
  progress.remaining_bytes = progress.total_bytes - progress.transferred_bytes;
  progress.forced = forced_.has_value();
  script_->shape_progress(progress);
  return progress;
}

void FakeComputeSystem::StopForBlackout() {
  if (std::exchange(blackout_told_, true)) return;
  Tell(MigrationEventName::kBlackoutStarted);
  if (machine_->ran_before) SetRunning(false);
}

Task<absl::Status> FakeComputeSystem::ForceSwitchover(SwitchoverForce how) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ForceSwitchover"));
  if (machine_->stage != Stage::kTransferring || machine_->origin != MigrationOrigin::kSource) {
    co_return WrongState("force a switchover");
  }
  forced_ = how;
  if (how == SwitchoverForce::kPauseGuest) StopForBlackout();
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::SwitchOver(bridge::Connection& channel,
                                                 TransferHooks& hooks) {
  StopForBlackout();
  if (hooks.check_rest) CO_RETURN_IF_ERROR(hooks.check_rest(ProgressAfter(script_->pages)));
  if (hooks.on_stopped) CO_RETURN_IF_ERROR(co_await hooks.on_stopped());
  CO_RETURN_IF_ERROR(co_await script_->Pass("SwitchOver"));
  const std::string state = Header(kState, machine_->counter, script_->pages);
  CO_RETURN_IF_ERROR(co_await channel.Write(state));
  char answer = 0;
  std::span<char> buffer(&answer, 1);
  CO_RETURN_IF_ERROR(co_await ReadFully(&channel, buffer));
  if (answer != kTaken) co_return absl::AbortedError("the destination refused the state");
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::TransferIn() {
  asio::posix::stream_descriptor listener(executor_, ::dup(listener_.get()));
  boost::system::error_code error;
  co_await listener.async_wait(asio::posix::stream_descriptor::wait_read,
                               asio::redirect_error(asio::use_awaitable, error));
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (error || !fd.valid()) co_return absl::UnavailableError("no source connected");
  bridge::StreamSocketConnection channel(executor_, std::move(fd));
  co_return co_await ReceiveAll(channel);
}

Task<absl::Status> FakeComputeSystem::ReceiveAll(bridge::Connection& channel) {
  constexpr uint64_t kMaxPage = 1 << 20;
  uint64_t next_page = 0;
  while (true) {
    std::array<char, kHeaderBytes> header;
    CO_RETURN_IF_ERROR(co_await ReadFully(&channel, header));
    uint64_t first = 0;
    uint64_t second = 0;
    std::memcpy(&first, &header[1], sizeof first);
    std::memcpy(&second, &header[9], sizeof second);
    if (header[0] == kPage && first == next_page && second <= kMaxPage) {
      std::string page(second, '\0');
      CO_RETURN_IF_ERROR(co_await ReadFully(&channel, page));
      ++next_page;
      CO_RETURN_IF_ERROR(co_await script_->Pass("ReceivePage"));
      continue;
    }
    if (header[0] != kState || second != next_page) {
      co_return absl::DataLossError("the migration stream is damaged");
    }
    CO_RETURN_IF_ERROR(co_await script_->Pass("Load"));
    machine_->counter = first;
    machine_->state = SystemState::kPaused;
    const std::string taken(1, kTaken);
    co_return co_await channel.Write(taken);
  }
}

Task<absl::Status> FakeComputeSystem::OpenDisks(std::vector<DiskPlace> disks,
                                                std::string unix_path) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("OpenDisks"));
  if (machine_->state != SystemState::kIncoming) co_return WrongState("take its disks");
  CO_RETURN_IF_ERROR(CheckWritable(disks));
  CO_ASSIGN_OR_RETURN(disks_listener_, OpenSocket(unix_path, true));
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::CloseDisks() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("CloseDisks"));
  disks_listener_.Reset();
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::MirrorDisks(std::vector<DiskMirror> disks,
                                                  std::string unix_path, TellCopied tell) {
  if (machine_->stage != Stage::kInitialized) co_return WrongState("copy its disks");
  std::vector<DiskPlace> places;
  for (const DiskMirror& disk : disks) places.push_back(disk.place);
  CO_RETURN_IF_ERROR(CheckWritable(places));
  uint64_t done = 0;
  absl::Status passed;
  script_->mirrored_over.clear();
  for (const auto& [disk, over_same] : disks) {
    if (over_same) script_->mirrored_over.insert(disk);
    CO_ASSIGN_OR_RETURN(UniqueFd fd, OpenSocket(unix_path, false));
    const std::string content = Header(kPage, done, script_->page_bytes);
    if (::write(fd.get(), content.data(), content.size()) < 0) break;
    machine_->mirrors[disk] = std::move(fd);
    done += script_->page_bytes;
    CopiedBytes copied{.done = done, .total = disks.size() * script_->page_bytes};
    copied.write_limit = script_->disk_write_limit;
    if (tell) tell(copied);
  }
  passed = co_await script_->Pass("MirrorDisks");
  // They may have been called off meanwhile.
  if (passed.ok() && machine_->mirrors.size() != disks.size()) {
    passed = absl::CancelledError("the copy of a disk was called off");
  }
  if (!passed.ok()) machine_->mirrors.clear();
  co_return passed;
}

Task<absl::Status> FakeComputeSystem::SealMirrors(std::vector<DiskPlace> disks) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("SealMirrors"));
  for (const DiskPlace& disk : disks) {
    if (machine_->mirrors.erase(disk) == 0) {
      co_return absl::AbortedError(StrCat("the disk at ", ToText(disk), " is not copied"));
    }
  }
  co_return absl::OkStatus();
}

absl::Status FakeComputeSystem::CheckWritable(const std::vector<DiskPlace>& disks) {
  for (const DiskPlace& place : disks) {
    const schema::Attachment* disk = DiskAt(place);
    if (disk == nullptr || disk->read_only) {
      return absl::NotFoundError(
          StrCat("there is no disk at ", ToText(place), " that can be written to"));
    }
  }
  return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::FinalizeLiveMigration(
    const schema::MigrationFinalizedOptions& options) {
  const schema::MigrationFinalizedOptions wanted = options;
  absl::Status passed = co_await script_->Pass("FinalizeLiveMigration");
  // As of a VMM that gives no answer.
  const bool answered = !absl::IsDeadlineExceeded(passed);
  if (passed.ok() && exited_) passed = WrongState("finalize its migration");
  if (!passed.ok() && answered) passed.SetPayload(kHasNotRun, absl::Cord());
  CO_RETURN_IF_ERROR(passed);
  const bool stop = wanted.finalized_operation == MigrationFinalOperation::kStop;
  const bool source = machine_->origin == MigrationOrigin::kSource;
  const bool needs_transfer = source == stop;  // else it gives the migration up
  if (machine_->stage == Stage::kNone || machine_->stage == Stage::kTransferring ||
      wanted.origin != machine_->origin ||
      (needs_transfer && machine_->stage != Stage::kTransferred)) {
    co_return WrongState("finalize the migration so");
  }
  const bool transferred = std::exchange(machine_->stage, Stage::kNone) == Stage::kTransferred;
  if (stop) {
    if (source) Tell(MigrationEventName::kMigrationDone);
    Exit(SystemExit::Cause::kTerminated, "the migration was finalized");
    co_return absl::OkStatus();
  }
  if (source) {
    if (transferred && machine_->ran_before && !wanted.leave_paused) SetRunning(true);
    Tell(MigrationEventName::kMigrationRecoveryDone);
    co_return absl::OkStatus();
  }
  link_.Reset();
  listener_.Reset();
  if (!wanted.leave_paused) SetRunning(true);
  CO_RETURN_IF_ERROR(co_await script_->Pass("FinalizeLiveMigrationRan"));
  Tell(MigrationEventName::kBlackoutExited);
  Tell(MigrationEventName::kMigrationDone);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::CancelLiveMigration(
    const schema::MigrationCancelOptions& options) {
  const MigrationOrigin origin = options.origin;
  CO_RETURN_IF_ERROR(co_await script_->Pass("CancelLiveMigration"));
  if (origin == MigrationOrigin::kSource) machine_->mirrors.clear();
  if (machine_->stage == Stage::kNone) co_return absl::OkStatus();
  if (origin == MigrationOrigin::kSource && machine_->origin == MigrationOrigin::kDestination) {
    if (machine_->stage != Stage::kTransferred) co_return WrongState("cancel it as a source");
    machine_->stage = Stage::kNone;
    co_return absl::OkStatus();
  }
  cancelled_ = true;
  if (machine_->origin == MigrationOrigin::kDestination) {
    Exit(SystemExit::Cause::kTerminated, "the migration was cancelled");
    co_await transfer_over_.Wait();
    machine_->stage = Stage::kNone;
    co_return absl::OkStatus();
  }
  if (machine_->stage == Stage::kTransferring) {
    cancel_.Set();
    co_await transfer_over_.Wait();
    co_return absl::OkStatus();
  }
  const bool transferred = std::exchange(machine_->stage, Stage::kNone) == Stage::kTransferred;
  if (transferred && machine_->ran_before) SetRunning(true);
  Tell(MigrationEventName::kMigrationFailed, MigrationResult::kMigrationCancelled);
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
