#include "vmmanager/service/attach_call.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/service/process_conversion.h"

namespace ferry::vm {
namespace {

guest::AttachOptions ToOptions(const v1::AttachRequest::Open& open) {
  guest::AttachOptions options;
  options.steal = open.steal();
  options.watch_only = open.no_stdin();
  options.attachment_id = open.attachment_id();
  if (open.has_stdout_position()) {
    options.stdout_position =
        guest::StreamPosition{open.stdout_position().generation(), open.stdout_position().offset()};
  }
  if (open.has_stderr_position()) {
    options.stderr_position =
        guest::StreamPosition{open.stderr_position().generation(), open.stderr_position().offset()};
  }
  return options;
}

// What a client is sent at once, at most. It acknowledges in smaller steps, and both fit several
// times into what may be on the way.
constexpr size_t kMaxOutput = 256 * 1024;

}  // namespace

bool MergeOutput(v1::AttachResponse* waiting, v1::AttachResponse* next) {
  if (!waiting->has_output() || !next->has_output()) return false;
  v1::AttachResponse::Output& before = *waiting->mutable_output();
  const v1::AttachResponse::Output& after = next->output();
  const bool follows = before.stream() == after.stream() &&
                       before.generation() == after.generation() &&
                       before.offset() + before.data().size() == after.offset();
  if (!follows || before.data().size() + after.data().size() > kMaxOutput) return false;
  // Where there is so much, there will be more.
  if (after.data().size() >= kMaxOutput / 8) before.mutable_data()->reserve(kMaxOutput);
  before.mutable_data()->append(after.data());
  return true;
}

AttachCall::~AttachCall() {
  if (vm_ != nullptr) vm_->RemoveObserver(this);
}

Task<absl::Status> AttachCall::Run() {
  stream_->set_merge(&MergeOutput);
  auto first = co_await stream_->Read();
  if (!first.has_value()) co_return absl::OkStatus();
  if (!first->has_open()) {
    co_return absl::InvalidArgumentError("the first message of an Attach call must be `open`");
  }
  const v1::AttachRequest::Open open = first->open();
  absl::Status status = co_await Open(open);
  if (status.ok()) {
    TaskScope tasks(inventory_.deps().executor);
    tasks.Spawn(ReadRequests());
    tasks.Spawn(WatchWritable());
    tasks.Spawn(ApplySizes());
    co_await over_.Wait();
    co_await tasks.CancelAndJoin();
    status = outcome_;
  }
  attachment_.reset();
  if (vm_ != nullptr) vm_->RemoveObserver(this);
  co_return status;
}

Task<absl::Status> AttachCall::Open(const v1::AttachRequest::Open& open) {
  auto vm = inventory_.Find(open.vm());
  if (!vm.ok()) co_return vm.status();
  vm_ = *vm;
  auto guest = co_await UsableGuest();
  if (!guest.ok()) co_return guest.status();
  process_ = (*guest)->Find(open.process_id());
  if (process_ == nullptr) {
    co_return absl::NotFoundError(absl::StrCat("VM ", vm_->name(), " has no process ",
                                               open.process_id(), "; ferryctl ps ", vm_->name(),
                                               " shows those there are"));
  }
  if (!open.no_stdin()) CO_RETURN_IF_ERROR(co_await AwaitInput(*guest, open.attachment_id()));
  auto attachment = process_->Attach(ToOptions(open), *this);
  if (!attachment.ok()) co_return attachment.status();
  attachment_ = *std::move(attachment);
  if (!opened_) SendOpened();
  vm_->AddObserver(this);
  if (auto notice = vm_->current_notice()) SendNotice(*notice);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> AttachCall::UsableGuest() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<UtilityVm> vm = vm_;
  std::shared_ptr<AttachStream> stream = stream_;
  auto first = co_await (vm->UsableGuest() || stream->WaitGone());
  if (first.index() == 1) co_return absl::CancelledError("the client is gone");
  auto guest = std::get<0>(std::move(first));
  if (guest.ok()) co_return guest;
  // It waits for the VM, and not for long in one call.
  if (rpc::ReasonOf(guest.status()) == "vm_saved") {
    co_return rpc::Reworded(guest.status(), absl::StatusCode::kUnavailable,
                            guest.status().message());
  }
  // A VM that was expected here and did not come is not here, and with a VM that ended its
  // processes are gone: the client looks elsewhere.
  const v1::VmState state = vm->state();
  const bool ended = state == v1::VM_STATE_STOPPED || state == v1::VM_STATE_FAILED;
  if (!ended && inventory_.Find(vm->id()).ok()) co_return guest.status();
  co_return rpc::Reworded(guest.status(), absl::StatusCode::kNotFound, guest.status().message());
}

Task<absl::Status> AttachCall::AwaitInput(std::shared_ptr<guest::Guest> guest,
                                          std::string attachment_id) {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<AttachStream> stream = stream_;
  std::shared_ptr<guest::Process> process = process_;
  const milliseconds limit = inventory_.deps().settings.outcome_wait;
  bool had_time = false;
  while (!had_time) {
    // An agent that came meanwhile, or whose guest stood still, gets the whole time as well.
    const uint64_t stood_still = vm_->standstills();
    const bool ready = guest->ready() && !vm_->paused_by_user();
    std::string id = attachment_id;
    auto known = co_await (WithDeadline(limit, "the guest's word of the process's input",
                                        process->AwaitInput(std::move(id))) ||
                           stream->WaitGone());
    if (known.index() == 1) co_return absl::CancelledError("the client is gone");
    const absl::Status said = std::get<0>(std::move(known));
    // A switchover may be under way by now, or the VM may have ended.
    CO_RETURN_IF_ERROR((co_await UsableGuest()).status());
    if (!absl::IsDeadlineExceeded(said)) co_return absl::OkStatus();
    if (vm_->paused_by_user() || !guest->ready()) co_return InputNotKnown();
    had_time = ready && vm_->standstills() == stood_still;
  }
  // Only of input that is over an agent says nothing.
  process->SettleInput();
  co_return absl::OkStatus();
}

absl::Status AttachCall::InputNotKnown() const {
  const std::string& name = vm_->name();
  if (!vm_->paused_by_user()) {
    return absl::UnavailableError(
        absl::StrCat("the agent of VM ", name,
                     " is not connected, so it is not known how much the guest holds of the input "
                     "that another client sent; try again"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("VM ", name, " is paused; resume it first (ferryctl vm resume ", name,
                   "), so that its guest can say how much it holds of the input that another "
                   "client sent"));
}

void AttachCall::SendOpened() {
  opened_ = true;
  v1::AttachResponse response;
  v1::AttachResponse::Opened* opened = response.mutable_opened();
  *opened->mutable_process() = describe_(*vm_, *process_);
  if (attachment_ != nullptr) {
    const guest::StreamPosition position = attachment_->stdin_position();
    opened->set_stdin_offset(position.offset);
    opened->set_stdin_generation(position.generation);
  }
  opened->set_host(inventory_.deps().settings.advertised_address);
  stream_->Write(std::move(response));
}

// Ends when the client has said all it wants to, or is gone.
Task<void> AttachCall::ReadRequests() {
  absl::Status status = absl::OkStatus();
  while (status.ok() && !exit_taken_) {
    auto request = co_await stream_->Read();
    if (!request.has_value()) break;
    const v1::AttachRequest message = *std::move(request);
    status = co_await Handle(message);
  }
  End(status);
}

Task<absl::Status> AttachCall::Handle(const v1::AttachRequest& request) {
  switch (request.message_case()) {
    case v1::AttachRequest::kStdinData:
      co_return attachment_->SendStdin(request.stdin_data().offset(), request.stdin_data().data());
    case v1::AttachRequest::kStdinEnd:
      co_return attachment_->EndStdin(request.stdin_end().offset());
    case v1::AttachRequest::kAck:
      attachment_->Acknowledge(ToStream(request.ack().stream()), request.ack().offset(),
                               request.ack().end_taken());
      co_return absl::OkStatus();
    case v1::AttachRequest::kResize:
      size_ = request.resize();
      resized_.Set();
      co_return absl::OkStatus();
    case v1::AttachRequest::kExitTaken:
      attachment_->ExitTaken();
      exit_taken_ = true;
      on_exit_taken_(vm_->id(), process_->pid());
      co_return absl::OkStatus();
    case v1::AttachRequest::kOpen:
      co_return absl::InvalidArgumentError("an Attach call is opened once");
    case v1::AttachRequest::MESSAGE_NOT_SET:
      break;
  }
  co_return absl::InvalidArgumentError("an Attach message of an unknown kind; upgrade ferryd");
}

// Beside the conversation: an agent that is away for a moment must not hold input back.
Task<void> AttachCall::ApplySizes() {
  while (true) {
    co_await resized_.Wait();
    resized_.Reset();
    auto guest = co_await vm_->UsableGuest();
    if (!guest.ok()) co_return;  // the call ends too, or the client tells its size where it went
    std::shared_ptr<guest::Process> process = process_;
    const v1::TerminalSize size = size_;
    absl::Status applied = co_await process->ResizeConsole(size.rows(), size.columns());
    if (absl::IsDeadlineExceeded(applied)) resized_.Set();
  }
}

bool AttachCall::writable() const {
  const bool writable = stream_->writable();
  if (!writable) stalled_.Set();
  return writable;
}

Task<void> AttachCall::WatchWritable() {
  bool there = true;
  while (there) {
    co_await stalled_.Wait();
    stalled_.Reset();
    there = co_await stream_->WaitWritable();
    if (there) attachment_->OnWritable();
  }
  End(absl::CancelledError("the client is gone"));
}

void AttachCall::End(const absl::Status& outcome) {
  if (over_.is_set()) return;
  outcome_ = outcome;
  over_.Set();
}

void AttachCall::OnOutput(guest::Stream stream, guest::StreamPosition position,
                          std::string_view data) {
  if (!opened_) SendOpened();
  v1::AttachResponse response;
  v1::AttachResponse::Output* output = response.mutable_output();
  output->set_stream(ToProto(stream));
  output->set_generation(position.generation);
  output->set_offset(position.offset);
  output->set_data(data.data(), data.size());
  stream_->Write(std::move(response));
}

void AttachCall::OnOutputEnd(guest::Stream stream, uint64_t offset) {
  if (!opened_) SendOpened();
  v1::AttachResponse response;
  response.mutable_output_end()->set_stream(ToProto(stream));
  response.mutable_output_end()->set_offset(offset);
  stream_->Write(std::move(response));
}

void AttachCall::OnOutputDropped(guest::Stream stream, uint64_t from, uint64_t to) {
  if (!opened_) SendOpened();
  v1::AttachResponse response;
  response.mutable_output_dropped()->set_stream(ToProto(stream));
  response.mutable_output_dropped()->set_from(from);
  response.mutable_output_dropped()->set_to(to);
  stream_->Write(std::move(response));
}

void AttachCall::OnStdinTaken(uint64_t offset, bool end_taken) {
  v1::AttachResponse response;
  response.mutable_stdin_taken()->set_offset(offset);
  response.mutable_stdin_taken()->set_end_taken(end_taken);
  stream_->Write(std::move(response));
}

void AttachCall::OnStdinRewind(uint64_t offset) {
  v1::AttachResponse response;
  response.mutable_stdin_rewind()->set_offset(offset);
  stream_->Write(std::move(response));
}

void AttachCall::OnStdinClosed() {
  v1::AttachResponse response;
  response.mutable_stdin_closed();
  stream_->Write(std::move(response));
}

void AttachCall::OnExited(guest::ExitStatus status) {
  if (!opened_) SendOpened();
  v1::AttachResponse response;
  *response.mutable_exited() = ToProto(status);
  stream_->Write(std::move(response));
}

void AttachCall::OnDetached(const absl::Status& reason) {
  // UNAVAILABLE is no decision against the client: it sees the call break and comes back.
  if (!absl::IsUnavailable(reason)) {
    v1::AttachResponse response;
    response.mutable_detached()->set_reason(std::string(reason.message()));
    stream_->Write(std::move(response));
  }
  End(reason);
}

void AttachCall::OnNotice(const MigrationNotice& notice) { SendNotice(notice); }

void AttachCall::SendNotice(const MigrationNotice& notice) {
  v1::AttachResponse response;
  switch (notice.kind) {
    case MigrationNotice::Kind::kOpened:
      response.mutable_migration_opened()->set_session_id(notice.session_id);
      response.mutable_migration_opened()->set_destination(notice.destination);
      break;
    case MigrationNotice::Kind::kMoved:
      response.mutable_moved()->set_session_id(notice.session_id);
      response.mutable_moved()->set_destination(notice.destination);
      break;
    case MigrationNotice::Kind::kClosed:
      response.mutable_migration_closed()->set_session_id(notice.session_id);
      break;
  }
  stream_->Write(std::move(response));
}

}  // namespace ferry::vm
