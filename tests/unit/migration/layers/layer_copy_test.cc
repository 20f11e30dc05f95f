// Layers from one host's files to another's store, over a session connection.
#include <gmock/gmock.h>

#include "migration/layers/layer_receiver.h"
#include "migration/layers/layer_sender.h"
#include "tests/unit/migration/connection/connection_fixture.h"
#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

using asio::experimental::awaitable_operators::operator&&;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LayerCopyTest : public vm::ImagesTest {
 public:
  using Connection = std::shared_ptr<SessionConnection>;

  Task<absl::Status> Copy(std::vector<LayerFile> layers, std::map<std::string, uint64_t> wanted) {
    co_await ConnectionFixture::Connect(&source_, &destination_);
    LayerReceiver::Options options;
    options.owner = "session-1";
    options.reserve = reserve_;
    options.socket_path = sockets_ / "destination";
    options.silence = silence_;
    LayerReceiver receiver(io_.get_executor(), *store_, std::move(options));
    LayerSender sender(io_.get_executor(), source_, stall_);
    auto receive = [](LayerReceiver* to, Connection over, std::map<std::string, uint64_t> what,
                      uint64_t* seen) -> Task<absl::Status> {
      absl::Status status = co_await to->Receive(
          over, std::move(what), [seen](uint64_t received, uint64_t) { *seen = received; });
      co_return status;
    };
    auto send = [](LayerSender* from, Connection over, std::vector<LayerFile> what,
                   std::string path, uint64_t* seen) -> Task<absl::Status> {
      absl::Status status = co_await from->Send(std::move(what), std::move(path),
                                                [seen](uint64_t sent, uint64_t) { *seen = sent; });
      over->Close();
      co_return status;
    };
    auto receiving = receive(&receiver, destination_, std::move(wanted), &received_);
    auto sending = send(&sender, source_, std::move(layers), sockets_ / "source", &sent_);
    auto [received, sent] = co_await (std::move(receiving) && std::move(sending));
    received_status_ = received;
    co_return sent;
  }

  LayerFile File(const std::string& bytes) {
    const std::string path = folder_.path() + "/file-" + std::to_string(files_++);
    vm::WriteFile(path, bytes);
    return {{vm::DigestOf(bytes), bytes.size()}, path};
  }

  TempFolder sockets_;
  Connection source_;
  Connection destination_;
  absl::Status received_status_;
  uint64_t reserve_ = 0;
  milliseconds silence_{0};
  milliseconds stall_{0};
  uint64_t received_ = 0;
  uint64_t sent_ = 0;
  int files_ = 0;
};

TEST_F(LayerCopyTest, LayersArriveAndAreKeptForTheirOwner) {
  const std::string large = Noise(5'000'000, 1);
  const std::string small = "small";
  const absl::Status sent =
      Await(Copy({File(large), File(small)},
                 {{vm::DigestOf(large), large.size()}, {vm::DigestOf(small), small.size()}}));
  ASSERT_TRUE(sent.ok()) << sent;
  ASSERT_TRUE(received_status_.ok()) << received_status_;
  EXPECT_EQ(sent_, large.size() + small.size());
  EXPECT_EQ(received_, large.size() + small.size());
  EXPECT_EQ(vm::ReadFile(store_->PathOf(vm::DigestOf(large))), large);
  EXPECT_EQ(vm::ReadFile(store_->PathOf(vm::DigestOf(small))), small);
  ASSERT_THAT(store_->Pins(), SizeIs(1));
  EXPECT_EQ(store_->Pins()[0].owner, "session-1");
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(LayerCopyTest, WhatHasAnotherDigestIsNotKeptAndTheSourceIsTold) {
  LayerFile damaged = File("what it should be");
  vm::WriteFile(damaged.path, "what it is not be");
  const std::string digest = damaged.header.digest;
  const absl::Status sent = Await(Copy({damaged}, {{digest, damaged.header.size}}));
  EXPECT_TRUE(absl::IsDataLoss(received_status_)) << received_status_;
  EXPECT_THAT(std::string(sent.message()), HasSubstr("has the digest"));
  EXPECT_THAT(std::string(sent.message()), HasSubstr(digest));
  EXPECT_FALSE(store_->Has(digest));
  EXPECT_THAT(LayerFiles(), IsEmpty());
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(LayerCopyTest, WhatWasNotAskedForIsRefused) {
  const absl::Status sent = Await(Copy({File("uninvited")}, {{vm::DigestOf("wanted"), 6}}));
  EXPECT_TRUE(absl::IsInvalidArgument(received_status_)) << received_status_;
  EXPECT_THAT(std::string(sent.message()), HasSubstr("not asked for"));
  EXPECT_THAT(LayerFiles(), IsEmpty());
}

TEST_F(LayerCopyTest, ALayerOfAnotherSizeIsRefused) {
  const absl::Status sent = Await(Copy({File("bytes")}, {{vm::DigestOf("bytes"), 6}}));
  EXPECT_TRUE(absl::IsInvalidArgument(received_status_)) << received_status_;
  EXPECT_FALSE(sent.ok());
}

TEST_F(LayerCopyTest, AFileOfAnotherSizeThanItShouldHaveIsNotSent) {
  LayerFile shortened = File("all of the bytes");
  vm::WriteFile(shortened.path, "all of");
  const absl::Status sent =
      Await(Copy({shortened}, {{shortened.header.digest, shortened.header.size}}));
  EXPECT_TRUE(absl::IsDataLoss(sent)) << sent;
  EXPECT_TRUE(absl::IsUnavailable(received_status_)) << received_status_;
}

TEST_F(LayerCopyTest, AFullDiskIsSaidOnBothSides) {
  reserve_ = uint64_t{1} << 62;
  const absl::Status sent = Await(Copy({File("bytes")}, {{vm::DigestOf("bytes"), 5}}));
  EXPECT_EQ(rpc::ReasonOf(received_status_), "disk_full");
  EXPECT_THAT(std::string(sent.message()), HasSubstr("kept for others"));
  EXPECT_THAT(TempFiles(), IsEmpty());
}

// The first would fit.
TEST_F(LayerCopyTest, NothingIsTakenWithoutRoomForAll) {
  const std::map<std::string, uint64_t> wanted{{vm::DigestOf("bytes"), 5},
                                               {vm::DigestOf("too large"), uint64_t{1} << 62}};
  const absl::Status sent = Await(Copy({File("bytes")}, wanted));
  EXPECT_EQ(rpc::ReasonOf(received_status_), "disk_full");
  EXPECT_THAT(std::string(sent.message()), HasSubstr("kept for others"));
  EXPECT_FALSE(store_->Has(vm::DigestOf("bytes")));
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(LayerCopyTest, WhetherThereIsRoomCanBeAskedBefore) {
  LayerReceiver receiver(io_.get_executor(), *store_, {});
  EXPECT_TRUE(Await(receiver.CheckRoom({{"one", 5}, {"two", 6}})).ok());
  // Together they are more than can be counted.
  const std::map<std::string, uint64_t> huge{{"one", uint64_t{1} << 63},
                                             {"two", uint64_t{1} << 63}};
  EXPECT_EQ(rpc::ReasonOf(Await(receiver.CheckRoom(huge))), "disk_full");
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(LayerCopyTest, WhatBrokeIsTriedAgainAtTheSamePlace) {
  EXPECT_TRUE(Await(Copy({}, {{vm::DigestOf("bytes"), 5}})).ok());
  EXPECT_FALSE(received_status_.ok());
  EXPECT_FALSE(std::filesystem::exists(sockets_ / "destination"));
  // What a former daemon may have left.
  vm::WriteFile(sockets_ / "destination", "");
  const absl::Status sent = Await(Copy({File("bytes")}, {{vm::DigestOf("bytes"), 5}}));
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_TRUE(received_status_.ok()) << received_status_;
}

TEST_F(LayerCopyTest, ADestinationThatReadsNothingIsNotAwaitedForEver) {
  const std::string large = Noise(20'000'000, 1);
  Await(ConnectionFixture::Connect(&source_, &destination_));
  LayerSender sender(io_.get_executor(), source_, milliseconds(20));
  const absl::Status sent = Await(sender.Send({File(large)}, sockets_ / "source", nullptr));
  EXPECT_EQ(rpc::ReasonOf(sent), "transfer_stalled");
  EXPECT_THAT(std::string(sent.message()), HasSubstr(vm::DigestOf(large)));
}

TEST_F(LayerCopyTest, AConnectionThatBreaksIsNotTakenForAnAnswer) {
  Await(ConnectionFixture::Connect(&source_, &destination_));
  LayerSender sender(io_.get_executor(), source_, milliseconds(0));
  auto sent = Begin(sender.Send({File("bytes")}, sockets_ / "source", nullptr));
  Until([&] { return source_->statistics().bulk_bytes_sent > 0; });
  destination_->Close();
  EXPECT_TRUE(absl::IsUnavailable(Finish(sent))) << Finish(sent);
}

TEST_F(LayerCopyTest, ADestinationThatDoesNotAnswerIsNotAwaitedForEver) {
  Await(ConnectionFixture::Connect(&source_, &destination_));
  LayerSender sender(io_.get_executor(), source_, milliseconds(20));
  const absl::Status sent = Await(sender.Send({File("bytes")}, sockets_ / "source", nullptr));
  EXPECT_EQ(rpc::ReasonOf(sent), "transfer_stalled");
}

TEST_F(LayerCopyTest, ASourceThatSendsNothingIsNotAwaitedForEver) {
  Await(ConnectionFixture::Connect(&source_, &destination_));
  LayerReceiver::Options options;
  options.owner = "session-1";
  options.socket_path = sockets_ / "destination";
  options.silence = milliseconds(20);
  LayerReceiver receiver(io_.get_executor(), *store_, std::move(options));
  const absl::Status received =
      Await(receiver.Receive(destination_, {{vm::DigestOf("bytes"), 5}}, nullptr));
  EXPECT_EQ(rpc::ReasonOf(received), "transfer_stalled");
}

TEST_F(LayerCopyTest, ALimitForSilenceEndsNothingThatMoves) {
  silence_ = milliseconds(10'000);
  stall_ = milliseconds(10'000);
  const std::string large = Noise(5'000'000, 1);
  const absl::Status sent = Await(Copy({File(large)}, {{vm::DigestOf(large), large.size()}}));
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_TRUE(received_status_.ok()) << received_status_;
}

TEST_F(LayerCopyTest, ASourceThatGoesAwayEndsTheWait) {
  const absl::Status sent = Await(Copy({}, {{vm::DigestOf("bytes"), 5}}));
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_TRUE(absl::IsUnavailable(received_status_)) << received_status_;
  EXPECT_THAT(std::string(received_status_.message()), HasSubstr("went away"));
}

}  // namespace
}  // namespace ferry::migration
