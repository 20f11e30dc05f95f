#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bridge/stream/wire.h"
#include "guestmanager/process.h"

namespace ferry::guest {

// A client that follows its process from host to host the way ferryctl does: it keeps what the
// process has not taken, goes on where it stands, and checks every position that it is told.
class StdioClient : public AttachSink, public std::enable_shared_from_this<StdioClient> {
 public:
  StdioClient(Executor executor, std::string id) : executor_(std::move(executor)), id_(id) {}

  // What the process is to read; `finish` ends it.
  void SetInput(std::string input, bool finish) {
    input_ = std::move(input);
    finish_ = finish;
    PumpSoon();
  }

  void AttachTo(Process& process) {
    attachment_.reset();
    AttachOptions options;
    options.attachment_id = id_;
    options.stdout_position = StreamPosition{0, out.size()};
    options.stderr_position = StreamPosition{0, err.size()};
    absl::StatusOr<std::unique_ptr<Attachment>> made = process.Attach(options, *this);
    ASSERT_TRUE(made.ok()) << made.status();
    attachment_ = *std::move(made);
    detached.reset();
    acknowledged_ = out.size();
    sent_ = attachment_->stdin_position().offset;
    EXPECT_GE(sent_, taken) << "bytes were taken twice";
    end_sent_ = false;
    PumpSoon();
  }

  void Detach() { attachment_.reset(); }

  void SetOpen(bool open) {
    open_ = open;
    if (open_ && attachment_) attachment_->OnWritable();
  }

  // Sends now what the process may take.
  void Pump() {
    while (attachment_ && sent_ < input_.size() && sent_ < taken + bridge::kStreamWindow) {
      const size_t room = taken + bridge::kStreamWindow - sent_;
      const std::string_view part =
          std::string_view(input_).substr(sent_, std::min<size_t>(room, 32 * 1024));
      const absl::Status status = attachment_->SendStdin(sent_, part);
      EXPECT_TRUE(status.ok()) << status;
      if (!status.ok()) return;
      sent_ += part.size();
    }
    if (!attachment_ || !finish_ || end_sent_ || sent_ < input_.size()) return;
    end_sent_ = true;
    EXPECT_TRUE(attachment_->EndStdin(sent_).ok());
  }

  uint64_t unacknowledged_input() const { return sent_ - std::min(sent_, taken); }
  uint64_t unacknowledged_output() const { return out.size() - acknowledged_; }

  bool writable() const override { return open_; }

  void OnOutput(Stream stream, StreamPosition position, std::string_view data) override {
    std::string& to = stream == Stream::kStderr ? err : out;
    EXPECT_EQ(position.offset, to.size()) << "bytes are lost or repeated";
    EXPECT_FALSE(exited) << "output after the exit";
    to += data;
    // Lazily, so that there is nearly always something that only this client has.
    if (out.size() - acknowledged_ >= 100'000) AcknowledgeSoon(Stream::kStdout, out.size(), false);
    if (stream == Stream::kStdout) return;
    AcknowledgeSoon(Stream::kStderr, err.size(), false);
  }
  void OnOutputEnd(Stream stream, uint64_t offset) override {
    EXPECT_EQ(offset, stream == Stream::kStderr ? err.size() : out.size());
    AcknowledgeSoon(stream, offset, true);
  }
  void OnOutputDropped(Stream, uint64_t from, uint64_t to) override {
    ADD_FAILURE() << "output " << from << " to " << to << " was dropped";
  }
  void OnStdinTaken(uint64_t offset, bool end) override {
    EXPECT_GE(offset, taken);
    taken = offset;
    end_taken = end_taken || end;
    PumpSoon();
  }
  void OnStdinRewind(uint64_t offset) override {
    sent_ = offset;
    end_sent_ = false;
    ++rewinds;
    PumpSoon();
  }
  void OnStdinClosed() override { stdin_closed = true; }
  void OnExited(ExitStatus status) override {
    EXPECT_FALSE(exited) << "the exit was told twice";
    exited = status;
    asio::post(executor_, [self = shared_from_this()] {
      if (self->attachment_) self->attachment_->ExitTaken();
    });
  }
  void OnDetached(const absl::Status& reason) override { detached = reason; }

  std::string out;
  std::string err;
  uint64_t taken = 0;
  bool end_taken = false;
  bool stdin_closed = false;
  int rewinds = 0;
  std::optional<ExitStatus> exited;
  std::optional<absl::Status> detached;

 private:
  void PumpSoon() {
    asio::post(executor_, [self = shared_from_this()] { self->Pump(); });
  }

  void AcknowledgeSoon(Stream stream, uint64_t offset, bool end) {
    if (stream == Stream::kStdout) acknowledged_ = offset;
    asio::post(executor_, [self = shared_from_this(), stream, offset, end] {
      if (self->attachment_) self->attachment_->Acknowledge(stream, offset, end);
    });
  }

  Executor executor_;
  std::string id_;
  std::string input_;
  bool finish_ = false;
  bool open_ = true;
  uint64_t sent_ = 0;
  bool end_sent_ = false;
  uint64_t acknowledged_ = 0;
  std::unique_ptr<Attachment> attachment_;
};

}  // namespace ferry::guest
