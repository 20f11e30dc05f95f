#include "tools/ferryctl/attach_session.h"

#include <grpcpp/channel.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using GuestAsync = v1::GuestService::StubInterface::async_interface;
using Kind = AttachEffect::Kind;
using std::chrono::steady_clock;

constexpr milliseconds kAckDelay(5);
constexpr milliseconds kExitTimeout(5000);
constexpr milliseconds kSignalTimeout(10000);
constexpr milliseconds kLeaveTimeout(2000);
constexpr std::chrono::seconds kSecondInterrupt(2);
constexpr char kCtrlC = '\x03';
constexpr int kMaxBroken = 4;

std::string NewAttachmentId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

// The text on stderr is for the person; the terminal may be raw.
void Say(const std::string& text) { std::fprintf(stderr, "ferryctl: %s\r\n", text.c_str()); }

template <typename Stream>
Task<absl::Status> AwaitFirst(std::shared_ptr<Stream> stream, v1::AttachResponse* first) {
  std::optional<v1::AttachResponse> message = co_await stream->Read();
  if (message) {
    *first = *std::move(message);
    co_return absl::OkStatus();
  }
  const absl::Status status = co_await stream->Finish();
  if (!status.ok()) co_return status;
  co_return absl::UnavailableError("the daemon ended the attachment without a word");
}

}  // namespace

AttachSession::AttachSession(Executor executor, AttachConfig config)
    : executor_(executor),
      config_(std::move(config)),
      core_(config_.vm, config_.process_id, NewAttachmentId(), config_.steal, config_.watch),
      detach_keys_(config_.detach_keys),
      route_(config_.address, config_.started),
      stdout_(executor, config_.stdout_fd),
      stderr_(executor, config_.stderr_fd),
      stdin_room_(executor),
      ack_wanted_(executor),
      stop_(executor),
      scope_(executor) {}

Task<AttachOutcome> AttachSession::Run() {
  using asio::experimental::awaitable_operators::operator||;
  if (config_.handle_signals) scope_.Spawn(SignalLoop());
  scope_.Spawn(AckLoop());
  co_await (Follow() || WaitForStop());
  // While signals are still ours: one that came later would leave the terminal raw.
  raw_.reset();
  co_await scope_.CancelAndJoin();
  AttachOutcome outcome;
  if (outcome_) {
    outcome = *std::move(outcome_);
  } else {
    outcome.signal = stop_signal_;
    outcome.left = left_;
  }
  outcome.address = route_.target();
  co_return outcome;
}

Task<void> AttachSession::WaitForStop() { co_await stop_.Wait(); }

Task<void> AttachSession::Follow() {
  while (true) {
    const int before = connections_;
    const auto begun = steady_clock::now();
    const absl::Status status = co_await Attempt();
    if (outcome_) co_return;
    // What runs in that VM now is not what this was attached to, whatever its number.
    if (rpc::ReasonOf(status) == "vm_went_back") {
      Fail(status);
      co_return;
    }
    if (connections_ != before) {
      lost_for_ = milliseconds(0);
    } else {
      // It takes no longer: in what is more, ferryctl was stopped.
      const auto took = steady_clock::now() - begun;
      lost_for_ += std::min(std::chrono::duration_cast<milliseconds>(took), config_.open_timeout);
      route_.OnRefused(status);
      WaitForRestore();
    }
    if (!co_await WaitBeforeRetry(status)) co_return;
  }
}

// While the VM is saved nothing is lost, however long that lasts.
void AttachSession::WaitForRestore() {
  if (!route_.waits_for_restore()) return;
  lost_for_ = milliseconds(0);
  const auto now = steady_clock::now();
  if (!saved_since_) saved_since_ = now;
  if (said_saved_ || now - *saved_since_ < config_.quiet) return;
  said_saved_ = true;
  Say(absl::StrCat("VM ", config_.vm,
                   " is saved; going on when it is started again (Ctrl-C leaves)"));
}

// False when there is no point in another attempt.
Task<bool> AttachSession::WaitBeforeRetry(absl::Status last) {
  if (route_.hopeless() || lost_for_ > config_.give_up) {
    if (connections_ > 0) {
      const std::string text =
          absl::StrCat("lost process ", config_.process_id, " of VM ", config_.vm, "; looked at ",
                       absl::StrJoin(route_.Candidates(), ", "), ": ", last.message());
      last = rpc::Reworded(last, last.code(), text);
    }
    Fail(last);
    co_return false;
  }
  milliseconds delay = route_.delay();
  if (fruitless_ > 1) delay = std::max(delay, milliseconds(20 << std::min(fruitless_, 5)));
  lost_for_ += delay;
  if (delay.count() > 0) co_await Delay(delay);
  co_return true;
}

void AttachSession::Fail(absl::Status status) {
  outcome_.emplace();
  outcome_->error = std::move(status);
}

// One connection from its opening to its end. Not OK: it was not opened.
Task<absl::Status> AttachSession::Attempt() {
  const std::string address = route_.target();
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = ChannelTo(address);
  if (!channel.ok()) co_return channel.status();
  auto owner = rpc::OpenBidi(executor_, stubs_[address]->async(), &GuestAsync::Attach);
  std::shared_ptr<Stream> stream = owner.shared();
  stream_ = stream;
  struct Forget {
    std::shared_ptr<Stream>* stream;
    ~Forget() { stream->reset(); }
  } forget{&stream_};
  stream->Write(core_.Open());

  v1::AttachResponse first;
  absl::Status status =
      co_await WithDeadline(config_.open_timeout, "attaching", AwaitFirst(stream, &first));
  if (!status.ok()) co_return status;
  const Next next = co_await Handle(stream, std::move(first));
  if (next != Next::kGoOn) co_return absl::UnavailableError("the attachment was not opened");
  co_return co_await Converse(stream);
}

Task<absl::Status> AttachSession::Converse(std::shared_ptr<Stream> stream) {
  while (true) {
    std::optional<v1::AttachResponse> message = co_await stream->Read();
    if (!message) {
      route_.OnBroken();
      co_return absl::UnavailableError("the attachment broke off");
    }
    const Next next = co_await Handle(stream, *std::move(message));
    if (next != Next::kGoOn) co_return absl::OkStatus();
  }
}

Task<AttachSession::Next> AttachSession::Handle(std::shared_ptr<Stream> stream,
                                                v1::AttachResponse message) {
  AttachEffect effect = core_.OnMessage(std::move(message));
  switch (effect.kind) {
    case Kind::kOpened:
      Opened();
      break;
    case Kind::kWrite: {
      const Next next = co_await WriteOut(std::move(effect));
      if (next != Next::kGoOn) co_return next;
      break;
    }
    case Kind::kNotice:
      Say(effect.text);
      break;
    case Kind::kExited:
      co_await TakeExit(std::move(stream));
      co_return Next::kEnd;
    case Kind::kMigrationOpened:
      route_.OnMigrationOpened(effect.text);
      Preconnect(effect.text);
      break;
    case Kind::kMoved:
      route_.OnMoved(effect.text);
      co_return Next::kAttachAgain;
    case Kind::kMigrationClosed:
      route_.OnMigrationClosed();
      break;
    case Kind::kDetached:
      Fail(absl::AbortedError(absl::StrCat("detached by the daemon: ", effect.text)));
      co_return Next::kEnd;
    case Kind::kBroken:
      co_return Broken(effect.text);
    case Kind::kLost:
      Fail(absl::DataLossError(effect.text));
      co_return Next::kEnd;
    case Kind::kNone:
      break;
  }
  Send(false);
  stdin_room_.Set();
  if (core_.ack_pending()) ack_wanted_.Set();
  co_return Next::kGoOn;
}

void AttachSession::Opened() {
  route_.OnOpened();
  saved_since_.reset();
  said_saved_ = false;
  ++fruitless_;
  if (connections_++ == 0 && !config_.watch) {
    const v1::ProcessSpec& spec = core_.process().spec();
    if (spec.has_stdin()) {
      // Without stdin no key gets through, so Ctrl-C has to stay a signal.
      if (spec.terminal() && IsTerminal(config_.stdin_fd)) raw_.emplace(config_.stdin_fd);
      stdin_ = std::make_unique<FdThread>(executor_, config_.stdin_fd);
      scope_.Spawn(StdinLoop());
    }
  }
  SendSize();
}

AttachSession::Next AttachSession::Broken(const std::string& text) {
  if (++broken_ >= kMaxBroken) {
    Fail(absl::InternalError(text));
    return Next::kEnd;
  }
  return Next::kAttachAgain;
}

Task<AttachSession::Next> AttachSession::WriteOut(AttachEffect effect) {
  const bool plain = config_.render == nullptr;
  FdThread& out = plain && effect.stream == v1::STDIO_STREAM_STDERR ? stderr_ : stdout_;
  if (!plain) effect.text = config_.render(effect.stream, effect.offset, effect.text);
  const FdThread::Result result = co_await out.Write(std::move(effect.text));
  if (result.error == EPIPE) {
    outcome_.emplace();  // nobody reads any more: go quietly
    outcome_->output_closed = true;
    co_return Next::kEnd;
  }
  if (result.error != 0) {
    Fail(absl::InternalError(absl::StrCat("cannot write output: ", std::strerror(result.error))));
    co_return Next::kEnd;
  }
  core_.Written(effect.stream);
  fruitless_ = 0;
  broken_ = 0;
  co_return Next::kGoOn;
}

Task<void> AttachSession::TakeExit(std::shared_ptr<Stream> stream) {
  Send(true);
  stream->WritesDone();
  auto finish = [](std::shared_ptr<Stream> s) -> Task<absl::Status> {
    while (co_await s->Read()) {
    }
    co_return co_await s->Finish();
  };
  // The status is ours already; a daemon that fails now keeps it for others, which harms nobody.
  (void)co_await WithDeadline(kExitTimeout, "the end of the call", finish(stream));
  outcome_.emplace();
  outcome_->exit_status = core_.exit_status();
}

void AttachSession::Send(bool flush) {
  if (!stream_) return;
  for (v1::AttachRequest& request : core_.TakeRequests(flush)) stream_->Write(std::move(request));
}

void AttachSession::SendSize() {
  if (config_.watch || !stream_ || !core_.opened() || !core_.process().spec().terminal()) return;
  std::optional<v1::TerminalSize> size = TerminalSizeOf(config_.stdin_fd);
  if (!size) return;
  v1::AttachRequest request;
  *request.mutable_resize() = *size;
  stream_->Write(std::move(request));
}

Task<void> AttachSession::StdinLoop() {
  while (!core_.stdin_over()) {
    const size_t room = std::min(core_.StdinRoom(), kStdinChunk);
    if (room == 0) {
      stdin_room_.Reset();
      co_await stdin_room_.Wait();
      continue;
    }
    const FdThread::Result result = co_await stdin_->Read(room);
    if (result.error != 0 || result.data.empty()) {
      // A raw terminal has no end of input, it only hangs up. The process is not to take that for
      // a Ctrl-D.
      if (raw_) co_return StopBy(SIGHUP);
      core_.EndStdin();
      Send(false);
      co_return;
    }
    // On a raw terminal it is the process's, but that stands still, and the person was told.
    if (raw_ && said_saved_ && result.data.find(kCtrlC) != std::string::npos) {
      co_return StopBy(SIGINT);
    }
    if (raw_) {
      core_.AddStdin(detach_keys_.Pass(result.data, &left_));
    } else {
      core_.AddStdin(result.data);
    }
    Send(false);
    if (left_) {
      (void)co_await WithDeadline(kLeaveTimeout, "the last input", AwaitStdinTaken());
      stop_.Set();
      co_return;
    }
  }
}

Task<void> AttachSession::AwaitStdinTaken() {
  while (core_.stdin_unacknowledged() != 0) {
    stdin_room_.Reset();
    co_await stdin_room_.Wait();
  }
}

// Small outputs are acknowledged together, a moment after the first of them.
Task<void> AttachSession::AckLoop() {
  while (true) {
    ack_wanted_.Reset();
    co_await ack_wanted_.Wait();
    co_await Delay(kAckDelay);
    Send(true);
  }
}

Task<void> AttachSession::SignalLoop() {
  asio::signal_set signals(executor_, SIGINT, SIGTERM, SIGHUP);
  signals.add(SIGWINCH);
  while (true) {
    boost::system::error_code ec;
    const int signal = co_await signals.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return;
    if (signal == SIGWINCH) {
      SendSize();
    } else if (signal == SIGINT) {
      co_await Interrupt();
    } else {
      StopBy(signal);
    }
  }
}

void AttachSession::StopBy(int signal) {
  stop_signal_ = signal;
  stop_.Set();
}

Task<void> AttachSession::Interrupt() {
  const auto now = steady_clock::now();
  const bool again = last_interrupt_ && now - *last_interrupt_ < kSecondInterrupt;
  last_interrupt_ = now;
  if (again || config_.watch || !core_.opened()) co_return StopBy(SIGINT);
  scope_.Spawn(SendSignal(SIGINT));
}

Task<void> AttachSession::SendSignal(uint32_t signal) {
  const std::string address = route_.target();
  if (!ChannelTo(address).ok()) co_return;
  v1::SignalProcessRequest request;
  request.set_vm(config_.vm);
  request.set_process_id(config_.process_id);
  request.set_signal(signal);
  auto sent = co_await rpc::CallUnary(stubs_[address]->async(), &GuestAsync::SignalProcess, request,
                                      kSignalTimeout);
  if (!sent.ok()) {
    Say(absl::StrCat("the signal was not delivered: ", sent.status().message(),
                     "; press Ctrl-C again at once to detach"));
  }
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> AttachSession::ChannelTo(
    const std::string& address) {
  auto found = channels_.find(address);
  if (found != channels_.end()) return found->second;
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = rpc::MakeChannel(address, config_.tls);
  if (!channel.ok()) return channel;
  channels_[address] = *channel;
  stubs_[address] = v1::GuestService::NewStub(*channel);
  return channel;
}

// The connection to the destination is made while the memory moves, not in the blackout.
void AttachSession::Preconnect(const std::string& address) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = ChannelTo(address);
  if (channel.ok()) (void)(*channel)->GetState(true);
}

}  // namespace ferry::ctl
