#include "guestmanager/stdio_stream.h"

#include <deque>
#include <span>
#include <utility>
#include <vector>

namespace ferry::guest {
namespace {

constexpr size_t kReadSize = 64 * 1024;
// The agent's frames have 64 KiB and a header: with less, each of them would take two reads.
constexpr size_t kFramesReadSize = 128 * 1024;

absl::Status Gone() { return absl::UnavailableError("the stdio connection is gone"); }

}  // namespace

struct StdioStream::Link {
  Link(Executor executor, std::unique_ptr<bridge::Connection> c)
      : connection(std::move(c)), outgoing(executor) {}

  struct Chunk {
    std::string bytes;
    size_t counted = 0;
    bool half_close = false;
    bool for_process = false;  // it is told that it runs
  };

  std::unique_ptr<bridge::Connection> connection;
  AsyncEvent outgoing;
  std::deque<Chunk> queue;
  bridge::StreamDecoder decoder;
  bool hello_seen = false;
  bool up = false;
  bool plain = false;
  bool closed = false;
};

StdioStream::StdioStream(std::shared_ptr<LinkGate> gate, Owner* owner)
    : gate_(std::move(gate)), owner_(owner), wake_(gate_->executor) {}

absl::Status StdioStream::Listen(uint32_t port) {
  absl::StatusOr<std::unique_ptr<bridge::Listener>> listener = gate_->transport.Listen(port);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  Spawn(gate_->executor, AcceptLoop(shared_from_this()));
  return absl::OkStatus();
}

bool StdioStream::up() const { return link_ && link_->up; }
bool StdioStream::plain() const { return link_ && link_->plain; }

void StdioStream::Send(std::string bytes, size_t counted) {
  if (!up()) return;
  link_->queue.push_back({std::move(bytes), counted});
  link_->outgoing.Set();
}

void StdioStream::SendToProcess(std::string bytes, size_t counted) {
  if (!up()) return;
  link_->queue.push_back({std::move(bytes), counted, false, true});
  link_->outgoing.Set();
}

void StdioStream::EndWriting() {
  if (!up()) return;
  link_->queue.push_back({"", 0, true, true});
  link_->outgoing.Set();
}

void StdioStream::Wake() { wake_.Set(); }

void StdioStream::Restart() {
  if (link_) Drop(link_, Gone());
}

void StdioStream::Close() {
  if (closed_) return;
  closed_ = true;
  if (listener_) listener_->Close();
  if (link_) Drop(link_, Gone());
  owner_ = nullptr;
}

void StdioStream::Drop(const std::shared_ptr<Link>& link, const absl::Status& reason) {
  if (link->closed) return;
  const bool lost_plain = link->plain && !closed_;
  link->closed = true;
  link->outgoing.Set();
  link->connection->Close();
  if (link_ == link) link_.reset();
  wake_.Set();
  if (lost_plain) owner_->OnPlainLost(reason);
}

Task<void> StdioStream::AcceptLoop(std::shared_ptr<StdioStream> self) {
  std::shared_ptr<bridge::Listener> listener = self->listener_;
  while (!self->closed_) {
    absl::StatusOr<std::unique_ptr<bridge::Connection>> connection = co_await listener->Accept();
    if (!connection.ok()) co_return;
    if (self->closed_) {
      (*connection)->Close();
      co_return;
    }
    if (self->link_) self->Drop(self->link_, Gone());
    self->link_ = std::make_shared<Link>(self->gate_->executor, *std::move(connection));
    Spawn(self->gate_->executor, Serve(self, self->link_));
  }
}

Task<void> StdioStream::Serve(std::shared_ptr<StdioStream> self, std::shared_ptr<Link> link) {
  // A restored stream may be dialled before the agent has said what it can do.
  co_await self->gate_->capabilities_known.Wait();
  co_await self->gate_->open.Wait();
  if (link->closed) co_return;
  Spawn(self->gate_->executor, WriteLoop(self, link));
  absl::Status status;
  if (self->gate_->resumable_stdio) {
    status = co_await ServeResumable(self, link);
  } else {
    status = co_await ServePlain(self, link);
  }
  self->Drop(link, status);
}

Task<absl::Status> StdioStream::ServeResumable(std::shared_ptr<StdioStream> self,
                                               std::shared_ptr<Link> link) {
  std::optional<bridge::StreamHello> hello;
  while (!(hello = self->owner_->OwnHello())) {
    self->wake_.Reset();
    co_await self->wake_.Wait();
    co_await self->gate_->open.Wait();
    if (link->closed) co_return Gone();
  }
  link->up = true;
  self->Send(bridge::EncodeHello(*hello), 0);
  while (!link->closed) {
    const std::span<char> space = link->decoder.Space(kFramesReadSize);
    absl::StatusOr<size_t> read = co_await link->connection->Read(space);
    co_await self->gate_->open.Wait();
    if (link->closed) co_return Gone();
    if (!read.ok()) co_return read.status();
    if (*read == 0) co_return Gone();
    link->decoder.Received(*read);
    absl::Status status = co_await Handle(self, link);
    if (!status.ok()) co_return status;
  }
  co_return Gone();
}

// Passes on all whole frames; waits while the owner takes no data, and so holds the guest back.
Task<absl::Status> StdioStream::Handle(std::shared_ptr<StdioStream> self,
                                       std::shared_ptr<Link> link) {
  while (true) {
    while (link->hello_seen && !self->owner_->WantsData()) {
      self->wake_.Reset();
      co_await self->wake_.Wait();
      co_await self->gate_->open.Wait();
      if (link->closed) co_return Gone();
    }
    absl::StatusOr<std::optional<bridge::StreamFrame>> frame = link->decoder.Next();
    if (!frame.ok()) co_return frame.status();
    if (!frame->has_value()) co_return absl::OkStatus();
    const bool is_hello = (*frame)->type == bridge::StreamFrameType::kHello;
    if (is_hello == link->hello_seen) {
      co_return absl::InvalidArgumentError("a stdio stream begins with one hello");
    }
    link->hello_seen = true;
    absl::Status status =
        is_hello ? self->owner_->OnPeerHello((*frame)->hello) : self->owner_->OnFrame(**frame);
    if (!status.ok()) co_return status;
    if (link->closed) co_return Gone();
  }
}

Task<absl::Status> StdioStream::ServePlain(std::shared_ptr<StdioStream> self,
                                           std::shared_ptr<Link> link) {
  link->up = true;
  link->plain = true;
  self->owner_->OnPlainUp();
  std::vector<char> buffer(kReadSize);
  while (!link->closed) {
    if (!self->owner_->WantsData()) {
      self->wake_.Reset();
      co_await self->wake_.Wait();
      continue;
    }
    absl::StatusOr<size_t> read = co_await link->connection->Read(buffer);
    co_await self->gate_->open.Wait();
    // The consumer may have gone meanwhile; these bytes exist nowhere else.
    while (!link->closed && !self->owner_->WantsData()) {
      self->wake_.Reset();
      co_await self->wake_.Wait();
    }
    if (link->closed) co_return Gone();
    if (!read.ok()) co_return read.status();
    if (*read == 0) {
      link->plain = false;  // from here on its end is no loss
      self->owner_->OnPlainEnd();
      co_return Gone();
    }
    self->owner_->OnPlainData(std::string_view(buffer.data(), *read));
  }
  co_return Gone();
}

Task<void> StdioStream::WriteLoop(std::shared_ptr<StdioStream> self, std::shared_ptr<Link> link) {
  while (!link->closed) {
    co_await self->gate_->open.Wait();
    if (link->closed) co_return;
    if (link->queue.empty()) {
      link->outgoing.Reset();
      co_await link->outgoing.Wait();
      continue;
    }
    if (link->queue.front().for_process && !self->gate_->clock_set.is_set()) {
      co_await self->gate_->clock_set.Wait();
      continue;
    }
    Link::Chunk chunk = std::move(link->queue.front());
    link->queue.pop_front();
    absl::Status status;
    if (chunk.half_close) {
      status = co_await link->connection->CloseWrite();
    } else {
      status = co_await link->connection->Write(chunk.bytes);
    }
    if (link->closed) co_return;
    if (!status.ok()) co_return self->Drop(link, status);
    if (link->plain && chunk.counted > 0) self->owner_->OnPlainWritten(chunk.counted);
  }
}

}  // namespace ferry::guest
