#include "vmmanager/qemu/qmp_client.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using Socket = asio::local::stream_protocol::socket;

// A command on its way; its waiter sleeps on the timer, which is the deadline too.
struct Call {
  Call(const Executor& executor, milliseconds deadline) : timer(executor, deadline) {}
  asio::steady_timer timer;
  std::optional<absl::StatusOr<json::value>> result;
};

// One sendmsg, with the descriptor attached if there is one. Returns -1 with errno.
ssize_t SendSome(int socket, std::string_view bytes, int attached_fd) {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (attached_fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &attached_fd, sizeof(int));
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

struct QmpClient::State : std::enable_shared_from_this<QmpClient::State> {
  State(Executor e, UniqueFd fd)
      : executor(e),
        socket(e, asio::local::stream_protocol(), fd.Release()),
        ready(e),
        events(e),
        write_mutex(e) {}

  void Fail(absl::Status reason) {
    core.Fail(std::move(reason));
    Deliver();
    boost::system::error_code ignored;
    socket.close(ignored);
    ready.Set();
    events.Close();
  }

  void Deliver() {
    for (QmpReply& reply : core.TakeReplies()) {
      const auto found = calls.find(reply.id);
      if (found == calls.end()) continue;
      std::shared_ptr<Call> call = found->second;
      calls.erase(found);
      call->result = std::move(reply.result);
      call->timer.cancel();
    }
    for (QmpEvent& event : core.TakeEvents()) events.Push(std::move(event));
    if (core.ready()) ready.Set();
  }

  static Task<void> ReadLoop(std::shared_ptr<State> self) {
    while (self->socket.is_open()) {
      boost::system::error_code error;
      const size_t count = co_await self->socket.async_read_some(
          asio::buffer(self->buffer), asio::redirect_error(asio::use_awaitable, error));
      absl::Status status;
      if (error) {
        status = absl::UnavailableError(absl::StrCat("QEMU's monitor closed: ", error.message()));
      } else {
        status = self->core.Feed(std::string_view(self->buffer.data(), count));
        self->Deliver();
      }
      if (status.ok() && !self->core.ready()) {
        status = co_await self->Write(self->core.TakeOutput(), -1);
      }
      if (!status.ok()) {
        self->Fail(status);
        co_return;
      }
    }
  }

  // Writes in order of the calls; `attached_fd` travels with the first byte.
  Task<absl::Status> Write(std::string bytes, int attached_fd) {
    AsyncMutex::Guard guard = co_await write_mutex.Lock();
    std::string_view rest = bytes;
    while (!rest.empty()) {
      if (!socket.is_open()) co_return absl::UnavailableError("QEMU's monitor is closed");
      const ssize_t sent = SendSome(socket.native_handle(), rest, attached_fd);
      if (sent >= 0) {
        rest.remove_prefix(static_cast<size_t>(sent));
        attached_fd = -1;
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        co_return absl::UnavailableError(
            absl::StrCat("cannot write to QEMU's monitor: ", std::strerror(errno)));
      }
      boost::system::error_code error;
      co_await socket.async_wait(Socket::wait_write,
                                 asio::redirect_error(asio::use_awaitable, error));
    }
    co_return absl::OkStatus();
  }

  // A task of its own: a monitor that reads nothing fails a call by its deadline.
  static Task<void> Send(std::shared_ptr<State> self, std::string bytes, UniqueFd attached) {
    absl::Status sent = co_await self->Write(std::move(bytes), attached.get());
    if (!sent.ok()) self->Fail(sent);
  }

  Executor executor;
  Socket socket;
  std::array<char, 16384> buffer{};
  QmpCore core;
  AsyncEvent ready;
  AsyncQueue<QmpEvent> events;
  AsyncMutex write_mutex;
  std::map<uint64_t, std::shared_ptr<Call>> calls;
};

QmpClient::QmpClient(Executor executor, UniqueFd socket)
    : state_(std::make_shared<State>(executor, std::move(socket))) {
  Spawn(executor, State::ReadLoop(state_));
}

QmpClient::~QmpClient() { Close(); }

Task<absl::Status> QmpClient::WaitReady(milliseconds deadline) {
  std::shared_ptr<State> state = state_;
  auto wait = [](std::shared_ptr<State> inner) -> Task<absl::Status> {
    co_await inner->ready.Wait();
    co_return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await WithDeadline(deadline, "QEMU's monitor greeting", wait(state)));
  if (!state->core.ready()) co_return absl::UnavailableError("QEMU's monitor closed at once");
  co_return absl::OkStatus();
}

Task<absl::StatusOr<json::value>> QmpClient::Execute(std::string command, json::object arguments,
                                                     QmpCallOptions options) {
  std::shared_ptr<State> state = state_;
  CO_ASSIGN_OR_RETURN(const uint64_t id,
                      state->core.Submit(command, std::move(arguments), options.lane));
  auto call = std::make_shared<Call>(state->executor, options.deadline);
  state->calls.emplace(id, call);
  UniqueFd attached;
  if (options.send_fd >= 0) attached.Reset(::fcntl(options.send_fd, F_DUPFD_CLOEXEC, 0));
  Spawn(state->executor, State::Send(state, state->core.TakeOutput(), std::move(attached)));
  if (!call->result.has_value()) {
    boost::system::error_code ignored;
    co_await call->timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  state->calls.erase(id);
  state->core.Abandon(id);
  if (call->result.has_value()) co_return *std::move(call->result);
  co_return absl::DeadlineExceededError(
      absl::StrCat("QEMU did not answer ", command, " within ", options.deadline.count(), " ms"));
}

void QmpClient::Anticipate(std::string command, json::object arguments) {
  state_->core.Anticipate(command, std::move(arguments));
  std::string begun = state_->core.TakeOutput();
  if (begun.empty()) return;
  Spawn(state_->executor, State::Send(state_, std::move(begun), UniqueFd()));
}

AsyncQueue<QmpEvent>& QmpClient::events() { return state_->events; }

bool QmpClient::connected() const { return state_->core.ready(); }

void QmpClient::Close() { state_->Fail(absl::UnavailableError("the monitor was closed")); }

}  // namespace ferry::vm
