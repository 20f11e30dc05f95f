#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bridge/stream/stream_receiver.h"
#include "bridge/stream/stream_sender.h"
#include "bridge/transport/fake_guest_transport.h"

// The host's ends of resumable stdio streams.
namespace ferry::bridge {

// Reads a resumable output stream to its end, over as many connections as it takes.
struct OutputReader {
  OutputReader(FakeGuestTransport* link, uint32_t number) : transport(link), port(number) {}
  FakeGuestTransport* transport;
  uint32_t port;
  std::string data;
  bool ended = false;
  size_t cut_about_every = 0;  // bytes; 0: the link is never cut
  size_t next_cut = 0;
  int cuts = 0;
  std::mt19937 random{42};
};

// Breaks the link when enough came since the last time.
inline void MaybeCut(OutputReader* reader) {
  if (reader->cut_about_every == 0 || reader->data.size() < reader->next_cut) return;
  reader->next_cut = reader->data.size() + 1 + reader->random() % (2 * reader->cut_about_every);
  ++reader->cuts;
  reader->transport->Break();
  reader->transport->Restore();
}

inline Task<void> ReadOutput(OutputReader* reader) {
  StreamReceiver receiver(0);
  while (!reader->ended) {
    auto connection = co_await reader->transport->Accept(reader->port);
    StreamDecoder decoder;
    absl::Status written = co_await connection->Write(EncodeHello(receiver.MakeHello()));
    std::vector<char> buffer(64 * 1024);
    while (true) {
      const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
      if (!got.ok() || *got == 0) break;
      decoder.Append(std::string_view(buffer.data(), *got));
      while (true) {
        auto frame = decoder.Next();
        EXPECT_TRUE(frame.ok()) << frame.status();
        if (!frame.ok() || !frame->has_value()) break;
        const StreamFrame& item = **frame;
        if (item.type == StreamFrameType::kHello) {
          EXPECT_TRUE(receiver.OnPeerHello(item.hello).ok());
        } else if (item.type == StreamFrameType::kData) {
          auto fresh = receiver.OnData(item.offset, item.payload);
          EXPECT_TRUE(fresh.ok()) << fresh.status();
          if (!fresh.ok()) co_return;
          reader->data += *fresh;
          receiver.Taken(fresh->size());
        } else if (item.type == StreamFrameType::kEof) {
          EXPECT_TRUE(receiver.OnEof(item.offset).ok());
          receiver.EofTaken();
        }
      }
      if (auto ack = receiver.NextAck()) {
        written = co_await connection->Write(EncodeAck(ack->offset, ack->eof_taken));
      }
      if (written.ok() && receiver.eof_taken()) {
        reader->ended = true;
        break;
      }
      MaybeCut(reader);
    }
    receiver.OnDisconnect();
  }
}

// Feeds a resumable input stream. `reader_gone` is set when the guest said that its process takes
// no more, `closed_at` when it then closed the stream in order.
struct InputWriter {
  InputWriter(FakeGuestTransport* link, uint32_t number, std::string bytes, bool end = true)
      : transport(link), port(number), data(std::move(bytes)), finish(end) {}
  FakeGuestTransport* transport;
  uint32_t port;
  std::string data;
  bool finish = true;
  bool taken = false;
  bool reader_gone = false;
  std::optional<uint64_t> closed_at;
};

inline Task<void> WriteFrames(StreamSender* sender, InputWriter* writer, size_t* appended,
                              std::shared_ptr<Connection> connection, AsyncEvent* wake) {
  absl::Status status = co_await connection->Write(EncodeHello(sender->MakeHello()));
  while (status.ok()) {
    const size_t space = std::min(sender->WritableSpace(), writer->data.size() - *appended);
    if (space > 0) {
      EXPECT_TRUE(sender->Append(writer->data.substr(*appended, space)).ok());
      *appended += space;
    }
    if (writer->finish && *appended == writer->data.size()) sender->Finish();
    auto frame = sender->NextFrame();
    if (!frame.has_value()) {
      wake->Reset();
      co_await wake->Wait();
      continue;
    }
    const std::string bytes = frame->header + std::string(frame->payload);
    status = co_await connection->Write(bytes);
  }
}

inline Task<void> WriteInput(InputWriter* writer) {
  StreamSender sender(0);
  size_t appended = 0;
  const Executor executor = co_await asio::this_coro::executor;
  AsyncEvent wake(executor);
  while (!writer->taken && !writer->closed_at.has_value()) {
    std::shared_ptr<Connection> connection = co_await writer->transport->Accept(writer->port);
    TaskScope scope(executor);
    scope.Spawn(WriteFrames(&sender, writer, &appended, connection, &wake));
    StreamDecoder decoder;
    std::vector<char> buffer(4096);
    while (true) {
      const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
      if (got.ok() && *got == 0) writer->closed_at = sender.base();
      if (!got.ok() || *got == 0) break;
      decoder.Append(std::string_view(buffer.data(), *got));
      while (true) {
        auto frame = decoder.Next();
        EXPECT_TRUE(frame.ok()) << frame.status();
        if (!frame.ok() || !frame->has_value()) break;
        const bool last = ((*frame)->flags & kFlagEofTaken) != 0;
        const bool all = writer->finish && (*frame)->offset == writer->data.size();
        writer->reader_gone = writer->reader_gone || (last && !all);
        const absl::Status status = (*frame)->type == StreamFrameType::kHello
                                        ? sender.OnPeerHello((*frame)->hello)
                                        : sender.OnAck((*frame)->offset, last && all);
        EXPECT_TRUE(status.ok()) << status;
      }
      writer->taken = sender.fully_taken();
      wake.Set();
    }
    connection->Close();
    co_await scope.CancelAndJoin();
    sender.OnDisconnect();
  }
}

}  // namespace ferry::bridge
