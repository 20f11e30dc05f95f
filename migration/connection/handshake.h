#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/connection/frame.h"

// How the two daemons get to know each other. The source always speaks first.
namespace ferry::migration {

enum class Role : uint8_t { kSource = 1, kDestination = 2 };

inline constexpr size_t kSessionTokenSize = 32;

// What one side says of itself.
struct HandshakeParams {
  Role role = Role::kSource;
  std::string session_id;
  // Secret that opens the session. A destination that leaves it empty takes any: the caller who
  // handed the socket over has vouched for the peer.
  std::string token;
  std::string journal_id;  // names this side's journal, for the commit protocol
};

// The versions of the session connection that one side speaks.
struct VersionRange {
  uint16_t min = kMinConnectionVersion;
  uint16_t max = kConnectionVersion;
};

struct Hello {
  uint16_t min_version = kMinConnectionVersion;
  uint16_t max_version = kConnectionVersion;
  Role role = Role::kSource;
  uint32_t window = 0;  // bytes that the sender of this hello takes per channel
  std::string session_id;
  std::string token;
  std::string journal_id;
};

struct HelloAck {
  uint16_t version = kConnectionVersion;
  Role role = Role::kDestination;
  uint32_t window = 0;
  std::string journal_id;
};

enum class RefusalReason : uint16_t {
  kOther = 0,
  kVersion = 1,         // no version in common
  kUnknownSession = 2,  // nobody expects this session here
  kBadToken = 3,
  kRole = 4,       // both sides claim the same role
  kOccupied = 5,   // the session has its connection already
  kMalformed = 6,  // the hello cannot be read
  kWrongPeer = 7,  // the session is another host's
};

struct Refusal {
  RefusalReason reason = RefusalReason::kOther;
  std::string text;
};

std::string EncodeHello(const Hello& hello);
absl::StatusOr<Hello> DecodeHello(std::string_view payload);
std::string EncodeHelloAck(const HelloAck& ack);
absl::StatusOr<HelloAck> DecodeHelloAck(std::string_view payload);
std::string EncodeRefusal(const Refusal& refusal);
absl::StatusOr<Refusal> DecodeRefusal(std::string_view payload);

// The highest version that both sides speak.
std::optional<uint16_t> NegotiateVersion(const Hello& hello, VersionRange own = {});

// Why the destination does not want this hello; nullopt if it does.
std::optional<Refusal> CheckHello(const Hello& hello, const HandshakeParams& expected,
                                  VersionRange own = {});

// What a refusal means to the side that was refused.
absl::Status RefusalToStatus(const Refusal& refusal);

// Compares without telling by its duration where the difference is.
bool ConstantTimeEqual(std::string_view a, std::string_view b);

}  // namespace ferry::migration
