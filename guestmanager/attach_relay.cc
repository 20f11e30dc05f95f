#include "guestmanager/attach_relay.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/stream/wire.h"
#include "guestmanager/kept_output.h"

namespace ferry::guest {
namespace {

// Output on its way to the attached client, in bytes. It stays well below the client's window for
// stdin: what was taken of stdin is told behind it, and a client with a slow reader would otherwise
// never hear of it in time to send more.
constexpr uint64_t kOutputOnItsWay = bridge::kStreamWindow / 2;

constexpr size_t kSpoolChunk = 64 * 1024;
constexpr milliseconds kKeepAgain{1'000};

const char* NameOf(Stream stream) { return stream == Stream::kStderr ? "stderr" : "stdout"; }

}  // namespace

struct AttachRelay::Client {
  struct Cursor {
    uint64_t next = 0;   // spooled: the next byte to send
    uint64_t taken = 0;  // acknowledged by this client
    bool ended = false;  // it was told of the end
  };

  AttachSink* sink = nullptr;  // null once the attachment is over
  bool watch_only = false;
  std::string id;
  Cursor out;
  Cursor err;
  bool exit_told = false;

  Cursor& cursor(Stream stream) { return stream == Stream::kStderr ? err : out; }
};

class AttachRelay::Hold : public Attachment {
 public:
  Hold(std::shared_ptr<AttachRelay> relay, std::shared_ptr<Client> client, StreamPosition stdin_at)
      : relay_(std::move(relay)), client_(std::move(client)), stdin_at_(stdin_at) {}
  ~Hold() override { relay_->Detach(client_); }

  StreamPosition stdin_position() const override { return stdin_at_; }

  absl::Status SendStdin(uint64_t offset, std::string_view data) override {
    absl::Status status = MayWrite();
    return status.ok() ? relay_->in_->Send(offset, data) : status;
  }
  // A stream that was never opened may be closed, as often as one likes.
  absl::Status EndStdin(uint64_t offset) override {
    RETURN_IF_ERROR(MaySpeak());
    return relay_->in_ ? relay_->in_->End(offset) : absl::OkStatus();
  }
  void Acknowledge(Stream stream, uint64_t offset, bool end_taken) override {
    relay_->Acknowledge(client_, stream, offset, end_taken);
  }
  void ExitTaken() override {
    if (client_->sink == nullptr || client_->watch_only || !client_->exit_told) return;
    // This was all there is; the client's attachment ends without another word.
    relay_->Detach(client_);
    if (relay_->on_exit_taken_) relay_->on_exit_taken_();
  }
  void OnWritable() override {
    if (client_->sink != nullptr) relay_->Pump(client_);
  }

 private:
  absl::Status MaySpeak() const {
    if (client_->sink == nullptr) return absl::FailedPreconditionError("this attachment is over");
    if (client_->watch_only) return absl::FailedPreconditionError("a watcher has no stdin");
    return absl::OkStatus();
  }
  absl::Status MayWrite() const {
    RETURN_IF_ERROR(MaySpeak());
    if (!relay_->in_) return absl::FailedPreconditionError("the process has no stdin");
    return absl::OkStatus();
  }

  std::shared_ptr<AttachRelay> relay_;
  std::shared_ptr<Client> client_;
  StreamPosition stdin_at_;
};

AttachRelay::AttachRelay(std::shared_ptr<LinkGate> gate, const ProcessState& state,
                         const SpoolSettings& spool)
    : gate_(std::move(gate)),
      spooled_(state.spec.detached),
      attachment_id_(state.attachment_id),
      input_known_(gate_->executor),
      input_ended_(state.std_in.ended) {
  // What has its id already was made before this relay.
  const bool restored = state.pid != 0;
  if (state.stdin_port != 0) {
    in_ = std::make_unique<InputStream>(gate_, this, state.std_in, restored);
  }
  if (!in_ || in_->placed() || state.exit_status) input_known_.Set();
  auto make = [&](Stream which, uint32_t port, const StreamState& from) {
    Output made;
    if (port != 0) made.stream = std::make_unique<OutputStream>(gate_, which, from);
    const uint64_t start = from.spool.empty() ? from.taken.offset : from.spool_start;
    made.spool = Spool(spool.capacity, start, from.spool);
    if (spooled_ && port != 0) made.file = SpoolFile(spool.PathOf(port), spool.capacity);
    if (from.ended || port == 0) made.end = from.taken.offset;
    made.went_back_at = from.went_back_at;
    return made;
  };
  out_ = make(Stream::kStdout, state.stdout_port, state.std_out);
  err_ = make(Stream::kStderr, state.stderr_port, state.std_err);
  exit_ = state.exit_status;
}

absl::Status AttachRelay::Listen(const ProcessState& state) {
  absl::Status status;
  if (in_) status = in_->Listen(state.stdin_port);
  if (status.ok() && out_.stream) status = out_.stream->Listen(state.stdout_port);
  if (status.ok() && err_.stream) status = err_.stream->Listen(state.stderr_port);
  return status;
}

void AttachRelay::Start() {
  if (!spooled_) return;
  for (Stream stream : {Stream::kStdout, Stream::kStderr}) {
    Output& from = output(stream);
    if (!from.stream) continue;
    from.stream->SetConsumer(this, from.spool.end());
    KeepAndAcknowledge(stream);
  }
}

void AttachRelay::SetSpoolCapacity(size_t bytes) {
  if (!spooled_) return;
  for (Stream stream : {Stream::kStdout, Stream::kStderr}) {
    Output& to = output(stream);
    if (!to.stream || to.spool.capacity() == bytes) continue;
    to.spool.SetCapacity(bytes, KeepFrom(stream));
    to.stream->Wake();
  }
}

void AttachRelay::KeepRest() {
  for (const Stream stream : {Stream::kStdout, Stream::kStderr}) {
    if (spooled_ && output(stream).behind) KeepAndAcknowledge(stream);
  }
}

void AttachRelay::Forget() {
  out_.file.Remove();
  err_.file.Remove();
}

std::shared_ptr<AttachRelay::Client> AttachRelay::interactive() const {
  for (const std::shared_ptr<Client>& client : clients_) {
    if (!client->watch_only) return client;
  }
  return nullptr;
}

bool AttachRelay::attached() const { return interactive() != nullptr; }

StreamPosition AttachRelay::AsTold(StreamPosition position) const {
  position.generation += gate_->timeline;
  return position;
}

absl::StatusOr<KeptOutput> AttachRelay::ReadKept(Stream stream, uint64_t since,
                                                 size_t limit) const {
  if (!spooled_) return NothingKept();
  const Output& from = output(stream);
  KeptOutput kept = guest::ReadKept(from.spool, since, limit);
  kept.ended = !from.stream || from.end.has_value();
  if (from.stream) kept.start.generation = AsTold(from.stream->taken()).generation;
  kept.went_back_at = from.went_back_at;
  return kept;
}

absl::StatusOr<uint64_t> AttachRelay::StartOf(Stream stream, bool watches,
                                              const std::optional<StreamPosition>& wish) const {
  const Output& from = output(stream);
  if (!from.stream) return 0;
  const StreamPosition kept = AsTold(from.stream->taken());
  const uint64_t oldest = spooled_ ? from.spool.start() : kept.offset;
  if (!wish || wish->generation != kept.generation) return oldest;
  if (wish->offset < oldest && watches) return wish->offset;  // it is told what it missed
  if (wish->offset < oldest) {
    return absl::OutOfRangeError(absl::StrCat(NameOf(stream), " is kept from offset ", oldest,
                                              " on, ", wish->offset, " is gone"));
  }
  if (spooled_ && wish->offset > from.spool.end()) return from.spool.end();
  return wish->offset;
}

bool AttachRelay::IsLast(const std::string& attachment_id) const {
  return !attachment_id.empty() && attachment_id == attachment_id_;
}

Task<void> AttachRelay::AwaitInput(std::string attachment_id) {
  auto self = shared_from_this();
  if (!IsLast(attachment_id)) co_await input_known_.Wait();
}

absl::StatusOr<std::unique_ptr<Attachment>> AttachRelay::Attach(AttachOptions options,
                                                                AttachSink& sink) {
  if (!closed_.ok()) return closed_;
  if (options.watch_only && !spooled_) {
    return absl::FailedPreconditionError(
        "only a detached process can be watched; attach to this one instead");
  }
  absl::StatusOr<uint64_t> out =
      StartOf(Stream::kStdout, options.watch_only, options.stdout_position);
  if (!out.ok()) return out.status();
  absl::StatusOr<uint64_t> err =
      StartOf(Stream::kStderr, options.watch_only, options.stderr_position);
  if (!err.ok()) return err.status();

  const bool same = IsLast(options.attachment_id);
  if (!options.watch_only) {
    if (std::shared_ptr<Client> old = interactive()) {
      if (same) {
        Detach(old);  // the same client comes back: its old end learns nothing
      } else if (options.steal) {
        End(old, absl::AbortedError("another client has taken over this process"));
      } else {
        return absl::AlreadyExistsError(
            "another client is attached to this process; use --steal to take over");
      }
    }
  }

  auto client = std::make_shared<Client>();
  client->sink = &sink;
  client->watch_only = options.watch_only;
  client->id = options.attachment_id;
  client->out.next = client->out.taken = *out;
  client->err.next = client->err.taken = *err;
  clients_.push_back(client);

  StreamPosition stdin_at;
  if (in_) {
    stdin_at = AsTold(in_->taken());
    // What another client sent is on its way; this one goes on behind it.
    if (!same) stdin_at.offset = std::max(stdin_at.offset, in_->sent());
  }
  if (!spooled_) {
    if (out_.stream) out_.stream->SetConsumer(this, *out);
    if (err_.stream) err_.stream->SetConsumer(this, *err);
  }
  // The sink is not called before the caller holds the attachment.
  asio::post(gate_->executor, [weak = weak_from_this(), client] {
    std::shared_ptr<AttachRelay> self = weak.lock();
    if (self && client->sink != nullptr) self->Pump(client);
  });
  auto hold = std::make_unique<Hold>(shared_from_this(), client, stdin_at);
  if (options.watch_only || attachment_id_ == options.attachment_id) return hold;
  attachment_id_ = options.attachment_id;
  if (on_changed_) on_changed_();
  return hold;
}

void AttachRelay::Detach(const std::shared_ptr<Client>& client) {
  client->sink = nullptr;
  auto found = std::find(clients_.begin(), clients_.end(), client);
  if (found == clients_.end()) return;
  clients_.erase(found);
  if (!spooled_) {
    if (out_.stream) out_.stream->SetConsumer(nullptr, 0);
    if (err_.stream) err_.stream->SetConsumer(nullptr, 0);
  } else {
    // What only this client protected may be dropped now.
    if (out_.stream) out_.stream->Wake();
    if (err_.stream) err_.stream->Wake();
  }
}

void AttachRelay::End(const std::shared_ptr<Client>& client, const absl::Status& reason) {
  AttachSink* sink = client->sink;
  Detach(client);
  if (sink != nullptr) sink->OnDetached(reason);
}

void AttachRelay::SetExit(ExitStatus status) {
  if (exit_) return;
  exit_ = status;
  input_known_.Set();
  std::shared_ptr<AttachRelay> self = shared_from_this();
  if (status.kind == ExitStatus::Kind::kUnknown) {
    // The agent has forgotten the process, and with it what nobody had read.
    for (Stream stream : {Stream::kStdout, Stream::kStderr}) {
      if (output(stream).stream) output(stream).stream->ForceEnd();
    }
  }
  PumpAll();
}

void AttachRelay::Close(const absl::Status& reason) {
  if (!closed_.ok()) return;
  closed_ = reason.ok() ? absl::UnavailableError("the process is no longer served") : reason;
  std::shared_ptr<AttachRelay> self = shared_from_this();
  input_known_.Set();
  if (in_) in_->Close();
  if (out_.stream) out_.stream->Close();
  if (err_.stream) err_.stream->Close();
  while (!clients_.empty()) End(std::shared_ptr<Client>(clients_.front()), closed_);
}

void AttachRelay::FillState(ProcessState* state) const {
  state->attachment_id = attachment_id_;
  if (in_) {
    state->std_in = {.taken = in_->taken(), .ended = in_->ended()};
    state->std_in.in_flight = in_->in_flight();
  }
  for (Stream stream : {Stream::kStdout, Stream::kStderr}) {
    const Output& from = output(stream);
    if (!from.stream) continue;
    StreamState& to = stream == Stream::kStdout ? state->std_out : state->std_err;
    to = {.taken = from.stream->taken(), .ended = from.stream->ended()};
    to.in_flight = from.stream->in_flight();
    to.went_back_at = from.went_back_at;
    if (!spooled_) continue;
    to.spool_start = from.spool.start();
    to.spool = from.spool.bytes();
  }
}

uint64_t AttachRelay::KeepFrom(Stream stream) const {
  uint64_t from = std::numeric_limits<uint64_t>::max();
  for (const std::shared_ptr<Client>& client : clients_) {
    // Whoever only watches must not be able to hold the process up.
    if (!client->watch_only) from = std::min(from, client->cursor(stream).taken);
  }
  return from;
}

// What the spool holds is acknowledged once its file holds it too. Until then the guest keeps it,
// and nothing more is asked for.
void AttachRelay::KeepAndAcknowledge(Stream stream) {
  Output& to = output(stream);
  absl::Status kept = to.file.Update(to.spool, to.end.has_value());
  if (kept.ok()) {
    to.behind = false;
    to.stream->Acknowledge(to.spool.end(), to.end.has_value());
    return;
  }
  if (std::exchange(to.behind, true)) return;
  spdlog::error("the output of a detached process waits in its guest until it can be kept: {}",
                kept.ToString());
  Spawn(gate_->executor, KeepLater(shared_from_this(), stream));
}

// Nothing tells that a disk has room again.
Task<void> AttachRelay::KeepLater(std::shared_ptr<AttachRelay> self, Stream stream) {
  while (self->closed_.ok() && self->output(stream).behind) {
    co_await Delay(kKeepAgain);
    self->KeepAndAcknowledge(stream);
  }
  if (self->closed_.ok()) self->output(stream).stream->Wake();
}

bool AttachRelay::ConsumerReady(Stream stream) const {
  const Output& to = output(stream);
  if (spooled_) return !to.behind && to.spool.HasRoom(KeepFrom(stream));
  std::shared_ptr<Client> client = interactive();
  return client && client->sink->writable() && to.stream->in_flight() < kOutputOnItsWay;
}

void AttachRelay::OnData(Stream stream, StreamPosition position, std::string_view data) {
  if (!spooled_) {
    if (std::shared_ptr<Client> client = interactive()) {
      client->sink->OnOutput(stream, AsTold(position), data);
    }
    return;
  }
  output(stream).spool.Append(data, KeepFrom(stream));
  KeepAndAcknowledge(stream);
  PumpAll();
}

void AttachRelay::OnEnd(Stream stream, uint64_t offset) {
  output(stream).end = offset;
  if (spooled_) {
    KeepAndAcknowledge(stream);
  } else if (std::shared_ptr<Client> client = interactive()) {
    client->cursor(stream).ended = true;
    client->sink->OnOutputEnd(stream, offset);
  }
  PumpAll();
}

void AttachRelay::OnDropped(Stream stream, uint64_t from, uint64_t to) {
  if (spooled_) {
    output(stream).spool = Spool(output(stream).spool.capacity(), to, "");
  } else if (std::shared_ptr<Client> client = interactive()) {
    client->sink->OnOutputDropped(stream, from, to);
  }
}

void AttachRelay::OnLost(Stream stream, const absl::Status& reason) {
  const absl::Status lost = absl::UnavailableError(absl::StrCat(
      "the guest's ", NameOf(stream), " was lost and can't be resumed: ", reason.message()));
  std::vector<std::shared_ptr<Client>> clients = clients_;
  for (const std::shared_ptr<Client>& client : clients) End(client, lost);
}

// The guest does not say a second time that stdin is over.
void AttachRelay::NoteInput() {
  input_known_.Set();
  const bool ends = in_->ended() && !std::exchange(input_ended_, true);
  if (ends && on_changed_) on_changed_();
}

void AttachRelay::OnTaken(uint64_t offset, bool end_taken) {
  NoteInput();
  std::shared_ptr<Client> client = interactive();
  if (client) client->sink->OnStdinTaken(offset, end_taken);
}

void AttachRelay::OnRewind(uint64_t offset) {
  std::shared_ptr<Client> client = interactive();
  if (client) client->sink->OnStdinRewind(offset);
}

void AttachRelay::OnReaderGone() {
  NoteInput();
  std::shared_ptr<Client> client = interactive();
  if (client) client->sink->OnStdinClosed();
}

void AttachRelay::PumpAll() {
  std::vector<std::shared_ptr<Client>> clients = clients_;
  for (const std::shared_ptr<Client>& client : clients) {
    if (client->sink != nullptr) Pump(client);
  }
}

// Sends what is there for one attacher and, when it has everything, the exit status.
void AttachRelay::Pump(const std::shared_ptr<Client>& client) {
  std::shared_ptr<AttachRelay> self = shared_from_this();
  for (Stream stream : {Stream::kStdout, Stream::kStderr}) {
    Output& from = output(stream);
    if (!from.stream) {
      client->cursor(stream).ended = true;
    } else if (spooled_) {
      PumpSpool(client, stream);
    } else {
      if (from.stream->over() && !client->cursor(stream).ended) {
        client->cursor(stream).ended = true;
        client->sink->OnOutputEnd(stream, from.stream->end_offset());
      }
      from.stream->Wake();
    }
    if (client->sink == nullptr) return;
  }
  if (!exit_ || client->exit_told || !client->out.ended || !client->err.ended) return;
  client->exit_told = true;
  client->sink->OnExited(*exit_);
}

void AttachRelay::PumpSpool(const std::shared_ptr<Client>& client, Stream stream) {
  Output& from = output(stream);
  Client::Cursor& cursor = client->cursor(stream);
  while (client->sink != nullptr && client->sink->writable() && cursor.next < from.spool.end()) {
    if (cursor.next < from.spool.start()) {
      const uint64_t gap = cursor.next;
      cursor.next = cursor.taken = from.spool.start();
      client->sink->OnOutputDropped(stream, gap, cursor.next);
      continue;
    }
    std::string_view chunk = from.spool.Read(cursor.next, kSpoolChunk);
    const StreamPosition at{AsTold(from.stream->taken()).generation, cursor.next};
    cursor.next += chunk.size();
    client->sink->OnOutput(stream, at, chunk);
  }
  if (client->sink == nullptr || cursor.ended || !from.end || cursor.next < *from.end) return;
  cursor.ended = true;
  client->sink->OnOutputEnd(stream, *from.end);
}

void AttachRelay::Acknowledge(const std::shared_ptr<Client>& client, Stream stream, uint64_t offset,
                              bool end) {
  Output& to = output(stream);
  if (client->sink == nullptr || !to.stream) return;
  if (!spooled_) {
    to.stream->Acknowledge(offset, end);
    to.stream->Wake();
    return;
  }
  Client::Cursor& cursor = client->cursor(stream);
  if (offset < cursor.taken || offset > cursor.next) return;
  cursor.taken = offset;
  to.stream->Wake();
}

}  // namespace ferry::guest
