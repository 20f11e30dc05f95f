#include "bridge/transport/fake_host_transport.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

struct FakeHostTransport::State {
  struct Port {
    explicit Port(Executor executor) : arrived(executor) {}
    std::deque<std::unique_ptr<Connection>> waiting;
    AsyncEvent arrived;
    bool closed = false;
  };
  State(Executor e, size_t c) : executor(e), credit(c), flowing(e) { flowing.Set(); }

  Executor executor;
  size_t credit;
  AsyncEvent flowing;  // reset while the host's reading is paused
  std::map<uint32_t, std::shared_ptr<Port>> ports;
  std::vector<std::weak_ptr<FakePipe>> pipes;
};

namespace {

using State = FakeHostTransport::State;

class FakeConnection : public Connection {
 public:
  FakeConnection(std::shared_ptr<State> state, bool host, std::shared_ptr<FakePipe> in,
                 std::shared_ptr<FakePipe> out)
      : state_(std::move(state)), host_(host), in_(std::move(in)), out_(std::move(out)) {}
  ~FakeConnection() override { Close(); }

  Task<absl::StatusOr<size_t>> Read(std::span<char> buffer) override {
    std::shared_ptr<FakePipe> in = in_;
    std::shared_ptr<State> state = state_;
    while (true) {
      if (closed_) co_return absl::CancelledError("closed here");
      if (in->broken) co_return absl::UnavailableError("the link is gone");
      if (host_ && !state->flowing.is_set()) {
        in->readable.Reset();
        co_await in->readable.Wait();
        continue;
      }
      if (!in->bytes.empty()) {
        const size_t size = std::min(buffer.size(), in->bytes.size());
        std::copy_n(in->bytes.data(), size, buffer.data());
        in->bytes.erase(0, size);
        in->room.Set();
        co_return size;
      }
      if (in->ended) co_return size_t{0};
      in->readable.Reset();
      co_await in->readable.Wait();
    }
  }

  Task<absl::Status> Write(std::string_view data) override {
    std::shared_ptr<FakePipe> out = out_;
    while (!data.empty()) {
      if (closed_) co_return absl::CancelledError("closed here");
      if (out->broken) co_return absl::UnavailableError("the link is gone");
      const size_t size = std::min(data.size(), out->capacity - out->bytes.size());
      if (size == 0) {
        out->room.Reset();
        co_await out->room.Wait();
        continue;
      }
      out->bytes.append(data.substr(0, size));
      out->total += size;
      data.remove_prefix(size);
      out->readable.Set();
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> CloseWrite() override {
    out_->ended = true;
    out_->readable.Set();
    co_return absl::OkStatus();
  }

  void Close() override {
    if (std::exchange(closed_, true)) return;
    for (const std::shared_ptr<FakePipe>& pipe : {in_, out_}) {
      pipe->broken = true;
      pipe->Wake();
    }
  }

 private:
  std::shared_ptr<State> state_;
  bool host_;
  std::shared_ptr<FakePipe> in_;
  std::shared_ptr<FakePipe> out_;
  bool closed_ = false;
};

class FakeListener : public Listener {
 public:
  FakeListener(std::shared_ptr<State> state, uint32_t number, std::shared_ptr<State::Port> port)
      : state_(std::move(state)), number_(number), port_(std::move(port)) {}
  ~FakeListener() override { Close(); }

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Accept() override {
    std::shared_ptr<State::Port> port = port_;
    while (port->waiting.empty()) {
      if (port->closed) co_return absl::CancelledError("the listener was closed");
      port->arrived.Reset();
      co_await port->arrived.Wait();
    }
    std::unique_ptr<Connection> connection = std::move(port->waiting.front());
    port->waiting.pop_front();
    co_return std::move(connection);
  }

  void Close() override {
    if (std::exchange(port_->closed, true)) return;
    state_->ports.erase(number_);
    port_->waiting.clear();
    port_->arrived.Set();
  }

 private:
  std::shared_ptr<State> state_;
  uint32_t number_;
  std::shared_ptr<State::Port> port_;
};

}  // namespace

FakeHostTransport::FakeHostTransport(Executor executor, size_t credit)
    : state_(std::make_shared<State>(std::move(executor), credit)) {}
FakeHostTransport::~FakeHostTransport() { Close(); }

absl::StatusOr<std::unique_ptr<Listener>> FakeHostTransport::Listen(uint32_t port) {
  std::shared_ptr<State::Port>& entry = state_->ports[port];
  if (entry) return absl::AlreadyExistsError(absl::StrCat("port ", port, " is in use"));
  entry = std::make_shared<State::Port>(state_->executor);
  return std::make_unique<FakeListener>(state_, port, entry);
}

void FakeHostTransport::PauseReading() { state_->flowing.Reset(); }

void FakeHostTransport::ResumeReading() {
  state_->flowing.Set();
  for (const std::weak_ptr<FakePipe>& weak : state_->pipes) {
    if (std::shared_ptr<FakePipe> pipe = weak.lock()) pipe->Wake();
  }
}

void FakeHostTransport::Close() { Break(); }

absl::StatusOr<std::unique_ptr<Connection>> FakeHostTransport::Dial(uint32_t port) {
  auto found = state_->ports.find(port);
  if (found == state_->ports.end()) return absl::UnavailableError("refused");
  auto up = std::make_shared<FakePipe>(state_->executor, state_->credit);
  auto down = std::make_shared<FakePipe>(state_->executor, state_->credit);
  state_->pipes.push_back(up);
  state_->pipes.push_back(down);
  found->second->waiting.push_back(std::make_unique<FakeConnection>(state_, true, up, down));
  found->second->arrived.Set();
  return std::make_unique<FakeConnection>(state_, false, down, up);
}

void FakeHostTransport::Break() {
  for (const std::weak_ptr<FakePipe>& weak : state_->pipes) {
    if (std::shared_ptr<FakePipe> pipe = weak.lock()) {
      pipe->broken = true;
      pipe->Wake();
    }
  }
  state_->pipes.clear();
}

bool FakeHostTransport::listening(uint32_t port) const { return state_->ports.count(port) != 0; }
bool FakeHostTransport::paused() const { return !state_->flowing.is_set(); }

}  // namespace ferry::bridge
