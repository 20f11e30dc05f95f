#include "vmmanager/rpc/error_info.h"

#include <gtest/gtest.h>

#include "vmmanager/rpc/status_conversion.h"

namespace ferry::rpc {
namespace {

v1::ErrorInfo Info() {
  v1::ErrorInfo info;
  info.set_reason("destination_unreachable");
  info.set_side(v1::ErrorInfo::SIDE_DESTINATION);
  info.set_phase("prepare");
  info.set_vm_location("host-a:7700");
  info.set_next_step("Start ferryd on host-b.");
  return info;
}

TEST(ErrorInfo, IsKeptAsPayload) {
  const absl::Status status = WithErrorInfo(absl::UnavailableError("no answer"), Info());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(GetErrorInfo(status).has_value());
  EXPECT_EQ(GetErrorInfo(status)->reason(), "destination_unreachable");
}

TEST(ErrorInfo, IsAbsentFromPlainAndDamagedStatuses) {
  EXPECT_FALSE(GetErrorInfo(absl::NotFoundError("x")).has_value());
  absl::Status damaged = absl::NotFoundError("x");
  damaged.SetPayload(kErrorInfoTypeUrl, absl::Cord("\xff\xff\xff"));
  EXPECT_FALSE(GetErrorInfo(damaged).has_value());
}

TEST(StatusConversion, CarriesCodeTextAndPayload) {
  const absl::Status sent = WithErrorInfo(absl::FailedPreconditionError("it is stopped"), Info());
  const absl::Status received = FromGrpcStatus(ToGrpcStatus(sent));
  EXPECT_EQ(received, sent);
  EXPECT_EQ(GetErrorInfo(received)->vm_location(), "host-a:7700");
}

TEST(ErrorInfo, StaysWhenAnErrorIsReworded) {
  const absl::Status told = Reworded(WithErrorInfo(absl::UnavailableError("no answer"), Info()),
                                     absl::StatusCode::kNotFound, "looked in vain: no answer");
  EXPECT_EQ(told.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(told.message(), "looked in vain: no answer");
  EXPECT_EQ(GetErrorInfo(told)->next_step(), "Start ferryd on host-b.");
}

TEST(StatusConversion, TextThatIsNoUtf8DoesNotCostThePayload) {
  const absl::Status sent = WithErrorInfo(absl::InternalError("the guest said \xff\xc3"), Info());
  const absl::Status received = FromGrpcStatus(ToGrpcStatus(sent));
  EXPECT_EQ(received.message(), "the guest said \\xff\\xc3");
  ASSERT_TRUE(GetErrorInfo(received).has_value());
  EXPECT_EQ(GetErrorInfo(received)->next_step(), "Start ferryd on host-b.");
}

TEST(StatusConversion, GivesEveryErrorAReason) {
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
  const absl::Status received = FromGrpcStatus(ToGrpcStatus(absl::AbortedError("later")));
  EXPECT_EQ(received.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(received.message(), "later");
  ASSERT_TRUE(GetErrorInfo(received).has_value());
  EXPECT_EQ(GetErrorInfo(received)->reason(), "aborted");
}

TEST(StatusConversion, KeepsWhereAVmMoved) {
  const absl::Status moved = ErrorOfMove(absl::StatusCode::kNotFound, "VM web moved", "host-b:1");
  EXPECT_EQ(moved, FromGrpcStatus(ToGrpcStatus(moved)));
  EXPECT_EQ(MovedTo(FromGrpcStatus(ToGrpcStatus(moved))), "host-b:1");
  EXPECT_EQ(MovedTo(absl::OkStatus()), "");
  // Where it runs is also said of a VM that stays.
  EXPECT_EQ(MovedTo(WithErrorInfo(absl::InternalError("no"), Info())), "");
}

TEST(StatusConversion, IgnoresUnreadableDetails) {
  const grpc::Status garbled(grpc::StatusCode::INTERNAL, "text", "\xff\xff");
  EXPECT_EQ(FromGrpcStatus(garbled), absl::InternalError("text"));
}

TEST(StatusConversion, BoundsWhatTravelsInTrailers) {
  const absl::Status huge = WithErrorInfo(absl::InternalError(std::string(100000, 'x')), Info());
  const grpc::Status sent = ToGrpcStatus(huge);
  EXPECT_LT(sent.error_message().size() + sent.error_details().size(), 8000u);
  EXPECT_TRUE(GetErrorInfo(FromGrpcStatus(sent)).has_value());
}

}  // namespace
}  // namespace ferry::rpc
