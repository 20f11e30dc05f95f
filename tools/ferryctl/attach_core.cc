#include "tools/ferryctl/attach_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::ctl {
namespace {

using Kind = AttachEffect::Kind;

AttachEffect Effect(Kind kind, std::string text = "") {
  AttachEffect effect;
  effect.kind = kind;
  effect.text = std::move(text);
  return effect;
}

const char* NameOf(v1::StdioStream stream) {
  return stream == v1::STDIO_STREAM_STDERR ? "stderr" : "stdout";
}

}  // namespace

AttachCore::AttachCore(std::string vm, uint32_t process_id, std::string attachment_id, bool steal,
                       std::optional<WatchFrom> watch)
    : vm_(std::move(vm)),
      process_id_(process_id),
      attachment_id_(std::move(attachment_id)),
      steal_(steal),
      watches_(watch.has_value()) {
  stdout_.name = v1::STDIO_STREAM_STDOUT;
  stderr_.name = v1::STDIO_STREAM_STDERR;
  if (!watch) return;
  if (watch->std_out) Begin(*watch->std_out, &stdout_);
  if (watch->std_err) Begin(*watch->std_err, &stderr_);
}

void AttachCore::Begin(const v1::AttachRequest::Position& position, Output* output) {
  output->known = true;
  output->generation = position.generation();
  output->next = output->written = output->acked = position.offset();
}

v1::AttachRequest AttachCore::Open() {
  opened_ = false;
  v1::AttachRequest request;
  v1::AttachRequest::Open* open = request.mutable_open();
  open->set_vm(vm_);
  open->set_process_id(process_id_);
  open->set_attachment_id(attachment_id_);
  // Only once: a client that was itself stolen from must not take the process back.
  open->set_steal(steal_ && !opened_once_);
  open->set_no_stdin(watches_);
  if (stdout_.known) SetPosition(stdout_, open->mutable_stdout_position());
  if (stderr_.known) SetPosition(stderr_, open->mutable_stderr_position());
  // The new connection may know less than we once told: acknowledge all of it again. The guest may
  // wait for just that with its window full.
  for (Output* output : {&stdout_, &stderr_}) {
    output->acked = 0;
    output->end_acked = false;
    output->reopened = true;
  }
  return request;
}

void AttachCore::SetPosition(const Output& output, v1::AttachRequest::Position* position) const {
  position->set_generation(output.generation);
  position->set_offset(output.next);
}

WatchFrom AttachCore::written() const {
  const auto of = [](const Output& output) {
    std::optional<v1::AttachRequest::Position> position;
    if (!output.known) return position;
    position.emplace();
    position->set_generation(output.generation);
    position->set_offset(output.written);
    return position;
  };
  return {of(stdout_), of(stderr_)};
}

AttachCore::Output* AttachCore::Find(v1::StdioStream stream) {
  if (stream == v1::STDIO_STREAM_STDOUT) return &stdout_;
  if (stream == v1::STDIO_STREAM_STDERR) return &stderr_;
  return nullptr;
}

AttachEffect AttachCore::OnMessage(v1::AttachResponse message) {
  if (message.message_case() == v1::AttachResponse::kOpened) return OnOpened(message.opened());
  if (message.message_case() == v1::AttachResponse::kDetached) {
    return Effect(Kind::kDetached, message.detached().reason());
  }
  if (!opened_ && message.message_case() != v1::AttachResponse::kMoved) {
    return Effect(Kind::kBroken, "the daemon spoke before it opened the attachment");
  }
  switch (message.message_case()) {
    case v1::AttachResponse::kOutput:
      return OnOutput(message.mutable_output());
    case v1::AttachResponse::kOutputEnd:
      return OnOutputEnd(message.output_end());
    case v1::AttachResponse::kOutputDropped:
      return OnDropped(message.output_dropped());
    case v1::AttachResponse::kStdinTaken:
      return OnStdinTaken(message.stdin_taken().offset(), message.stdin_taken().end_taken());
    case v1::AttachResponse::kStdinRewind:
      return OnStdinRewind(message.stdin_rewind().offset());
    case v1::AttachResponse::kStdinClosed:
      stdin_closed_ = true;
      stdin_buffer_.clear();
      return AttachEffect();
    case v1::AttachResponse::kExited:
      if (exit_status_) return AttachEffect();
      exit_status_ = message.exited();
      return Effect(Kind::kExited);
    case v1::AttachResponse::kMigrationOpened:
      return Effect(Kind::kMigrationOpened, message.migration_opened().destination());
    case v1::AttachResponse::kMoved:
      return Effect(Kind::kMoved, message.moved().destination());
    case v1::AttachResponse::kMigrationClosed:
      return Effect(Kind::kMigrationClosed);
    default:
      return AttachEffect();  // from a newer daemon, and optional
  }
}

AttachEffect AttachCore::OnOpened(const v1::AttachResponse::Opened& opened) {
  if (opened_) return Effect(Kind::kBroken, "the daemon opened the attachment twice");
  const uint64_t offset = opened.stdin_offset();
  // A daemon of a former release knows less of it, and has the same stream.
  if (!opened_once_ || opened.stdin_generation() > stdin_generation_) {
    // A stream that is new to us: what is typed from now on begins where the process stands.
    stdin_base_ = stdin_ever_sent_ = offset;
    stdin_end_taken_ = false;
  } else if (offset > stdin_base_) {
    const uint64_t taken = std::min<uint64_t>(offset - stdin_base_, stdin_buffer_.size());
    stdin_buffer_.erase(0, taken);
    stdin_base_ = offset;
    stdin_ever_sent_ = std::max(stdin_ever_sent_, stdin_base_);
  }
  // Less than we know is what a restarted daemon remembers before the guest has told it more.
  stdin_generation_ = std::max(stdin_generation_, opened.stdin_generation());
  stdin_sent_ = stdin_base_;
  stdin_end_sent_ = false;
  process_ = opened.process();
  opened_ = true;
  opened_once_ = true;
  return Effect(Kind::kOpened);
}

AttachEffect AttachCore::OnOutput(v1::AttachResponse::Output* message) {
  Output* output = Find(message->stream());
  if (output == nullptr) return Effect(Kind::kBroken, "output of an unknown stream");
  // What an older daemon serves may be of an earlier one.
  const bool other = output->reopened && message->generation() != output->generation;
  output->reopened = false;
  if (!output->known || other || message->generation() > output->generation) {
    const v1::StdioStream name = output->name;
    *output = Output{.name = name};
    v1::AttachRequest::Position position;
    position.set_generation(message->generation());
    position.set_offset(message->offset());
    Begin(position, output);
  }
  if (message->generation() < output->generation) return AttachEffect();
  if (message->offset() > output->next) {
    return Effect(Kind::kBroken, absl::StrCat(NameOf(output->name), " jumped from byte ",
                                              output->next, " to ", message->offset()));
  }
  const uint64_t repeated = output->next - message->offset();
  if (repeated >= message->data().size()) return AttachEffect();
  AttachEffect effect = Effect(Kind::kWrite, std::move(*message->mutable_data()));
  effect.text.erase(0, repeated);
  effect.stream = output->name;
  effect.offset = output->next;
  output->next += effect.text.size();
  return effect;
}

AttachEffect AttachCore::OnOutputEnd(const v1::AttachResponse::OutputEnd& end) {
  Output* output = Find(end.stream());
  if (output == nullptr) return Effect(Kind::kBroken, "the end of an unknown stream");
  if (!output->known) {
    // Nothing was ever written to it, or everything was taken before we came.
    output->known = true;
    output->next = output->written = output->acked = end.offset();
  }
  if (end.offset() > output->next) {
    return Effect(Kind::kBroken, absl::StrCat(NameOf(output->name), " ended at byte ", end.offset(),
                                              ", but only ", output->next, " came"));
  }
  output->ended = true;
  return AttachEffect();
}

AttachEffect AttachCore::OnDropped(const v1::AttachResponse::OutputDropped& dropped) {
  Output* output = Find(dropped.stream());
  if (output == nullptr) return Effect(Kind::kBroken, "drop on an unknown stream");
  if (output->known && dropped.to() <= output->next) return AttachEffect();
  const uint64_t from = output->known ? std::max(output->next, dropped.from()) : dropped.from();
  output->known = true;
  output->next = output->written = dropped.to();
  return Effect(Kind::kNotice, absl::StrCat(dropped.to() - from, " bytes of ", NameOf(output->name),
                                            " had to be dropped before anybody read them"));
}

AttachEffect AttachCore::OnStdinTaken(uint64_t offset, bool end_taken) {
  if (end_taken) stdin_end_taken_ = true;
  if (stdin_closed_ || offset <= stdin_base_) return AttachEffect();
  if (offset > stdin_ever_sent_) {
    return Effect(Kind::kBroken, absl::StrCat("the process took input up to byte ", offset,
                                              ", but only ", stdin_ever_sent_, " was sent"));
  }
  stdin_buffer_.erase(0, offset - stdin_base_);
  stdin_base_ = offset;
  stdin_sent_ = std::max(stdin_sent_, stdin_base_);
  return AttachEffect();
}

AttachEffect AttachCore::OnStdinRewind(uint64_t offset) {
  if (stdin_closed_) return AttachEffect();
  if (offset < stdin_base_) {
    return Effect(Kind::kLost, absl::StrCat("the guest asks for input from byte ", offset,
                                            ", but had taken everything below ", stdin_base_));
  }
  if (offset > stdin_ever_sent_)
    return Effect(Kind::kBroken, "a rewind to input that was never sent");
  stdin_sent_ = offset;
  stdin_end_sent_ = false;
  return AttachEffect();
}

void AttachCore::Written(v1::StdioStream stream) {
  Output* output = Find(stream);
  if (output != nullptr) output->written = output->next;
}

size_t AttachCore::StdinRoom() const {
  if (stdin_over() || stdin_ended_) return 0;
  return kStdinWindow - std::min(kStdinWindow, stdin_buffer_.size());
}

void AttachCore::AddStdin(absl::string_view data) {
  if (!stdin_closed_) stdin_buffer_.append(data.data(), data.size());
}

void AttachCore::EndStdin() { stdin_ended_ = true; }

std::vector<v1::AttachRequest> AttachCore::TakeRequests(bool flush) {
  std::vector<v1::AttachRequest> requests;
  if (!opened_) return requests;
  TakeAck(&stdout_, flush || exit_status_, &requests);
  TakeAck(&stderr_, flush || exit_status_, &requests);
  if (exit_status_) {
    // It is for whoever is attached, or comes for it.
    if (watches_) return requests;
    if (!std::exchange(exit_taken_sent_, true)) requests.emplace_back().mutable_exit_taken();
    return requests;
  }
  TakeStdin(&requests);
  return requests;
}

void AttachCore::TakeStdin(std::vector<v1::AttachRequest>* requests) {
  if (stdin_over() || watches_) return;
  const uint64_t end = stdin_base_ + stdin_buffer_.size();
  while (stdin_sent_ < end) {
    const size_t size = std::min<uint64_t>(kStdinChunk, end - stdin_sent_);
    v1::AttachRequest::StdinData* data = requests->emplace_back().mutable_stdin_data();
    data->set_offset(stdin_sent_);
    data->set_data(stdin_buffer_.substr(stdin_sent_ - stdin_base_, size));
    stdin_sent_ += size;
    stdin_ever_sent_ = std::max(stdin_ever_sent_, stdin_sent_);
  }
  if (stdin_ended_ && !stdin_end_sent_) {
    stdin_end_sent_ = true;
    requests->emplace_back().mutable_stdin_end()->set_offset(end);
  }
}

bool AttachCore::AckPending(const Output& output) {
  return output.written > output.acked ||
         (output.ended && !output.end_acked && output.written == output.next);
}

void AttachCore::TakeAck(Output* output, bool flush, std::vector<v1::AttachRequest>* requests) {
  if (!AckPending(*output)) return;
  const bool end = output->ended && output->written == output->next;
  if (!flush && !end && output->written - output->acked < kAckEvery) return;
  v1::AttachRequest::Ack* ack = requests->emplace_back().mutable_ack();
  ack->set_stream(output->name);
  ack->set_offset(output->written);
  ack->set_end_taken(end);
  output->acked = output->written;
  output->end_acked = end;
}

}  // namespace ferry::ctl
