#include "migration/connection/handshake.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::migration {
namespace {

constexpr uint32_t kMagic = 0x59524546;  // "FERY"
constexpr size_t kMaxId = 128;
constexpr size_t kMaxToken = 64;
constexpr size_t kMaxText = 1024;

void AppendText(std::string* out, std::string_view text, size_t limit) {
  text = text.substr(0, limit);
  AppendInt(out, text.size(), 2);
  out->append(text);
}

bool IsRole(uint64_t role) { return role == 1 || role == 2; }

}  // namespace

std::string EncodeHello(const Hello& hello) {
  std::string out;
  AppendInt(&out, kMagic, 4);
  AppendInt(&out, hello.min_version, 2);
  AppendInt(&out, hello.max_version, 2);
  AppendInt(&out, static_cast<uint8_t>(hello.role), 1);
  AppendInt(&out, hello.window, 4);
  AppendText(&out, hello.session_id, kMaxId);
  AppendText(&out, hello.token, kMaxToken);
  AppendText(&out, hello.journal_id, kMaxId);
  return out;
}

// Bytes behind the known fields are what a later version adds; they are ignored.
absl::StatusOr<Hello> DecodeHello(std::string_view payload) {
  FieldReader reader(payload);
  const uint64_t magic = reader.Int(4);
  Hello hello;
  hello.min_version = static_cast<uint16_t>(reader.Int(2));
  hello.max_version = static_cast<uint16_t>(reader.Int(2));
  const uint64_t role = reader.Int(1);
  hello.role = static_cast<Role>(role);
  hello.window = static_cast<uint32_t>(reader.Int(4));
  hello.session_id = reader.Text(kMaxId);
  hello.token = reader.Text(kMaxToken);
  hello.journal_id = reader.Text(kMaxId);
  if (!reader.ok() || magic != kMagic || !IsRole(role)) {
    return absl::InvalidArgumentError("the peer's hello is malformed; is it a ferryd?");
  }
  return hello;
}

std::string EncodeHelloAck(const HelloAck& ack) {
  std::string out;
  AppendInt(&out, ack.version, 2);
  AppendInt(&out, static_cast<uint8_t>(ack.role), 1);
  AppendInt(&out, ack.window, 4);
  AppendText(&out, ack.journal_id, kMaxId);
  return out;
}

absl::StatusOr<HelloAck> DecodeHelloAck(std::string_view payload) {
  FieldReader reader(payload);
  HelloAck ack;
  ack.version = static_cast<uint16_t>(reader.Int(2));
  const uint64_t role = reader.Int(1);
  ack.role = static_cast<Role>(role);
  ack.window = static_cast<uint32_t>(reader.Int(4));
  ack.journal_id = reader.Text(kMaxId);
  if (!reader.ok() || !IsRole(role)) {
    return absl::InvalidArgumentError("the peer's answer to the hello is malformed");
  }
  return ack;
}

std::string EncodeRefusal(const Refusal& refusal) {
  std::string out;
  AppendInt(&out, static_cast<uint16_t>(refusal.reason), 2);
  AppendText(&out, refusal.text, kMaxText);
  return out;
}

absl::StatusOr<Refusal> DecodeRefusal(std::string_view payload) {
  FieldReader reader(payload);
  Refusal refusal;
  refusal.reason = static_cast<RefusalReason>(reader.Int(2));
  refusal.text = reader.Text(kMaxText);
  if (!reader.ok()) return absl::InvalidArgumentError("the peer's refusal is malformed");
  return refusal;
}

std::optional<uint16_t> NegotiateVersion(const Hello& hello, VersionRange own) {
  const uint16_t version = std::min(hello.max_version, own.max);
  if (version < hello.min_version || version < own.min) return std::nullopt;
  return version;
}

std::optional<Refusal> CheckHello(const Hello& hello, const HandshakeParams& expected,
                                  VersionRange own) {
  if (!NegotiateVersion(hello, own)) {
    return Refusal{
        RefusalReason::kVersion,
        absl::StrCat("the source speaks versions ", hello.min_version, " to ", hello.max_version,
                     " of the session connection, the destination ", own.min, " to ", own.max,
                     "; bring both hosts to neighbouring releases")};
  }
  if (hello.role == expected.role) {
    return Refusal{RefusalReason::kRole, "both sides of the session connection claim one role"};
  }
  if (hello.session_id != expected.session_id) {
    return Refusal{
        RefusalReason::kUnknownSession,
        absl::StrCat("migration session \"", hello.session_id, "\" is not expected here")};
  }
  if (!expected.token.empty() && !ConstantTimeEqual(hello.token, expected.token)) {
    return Refusal{RefusalReason::kBadToken, "the session token is wrong"};
  }
  return std::nullopt;
}

absl::Status RefusalToStatus(const Refusal& refusal) {
  const std::string text =
      absl::StrCat("the destination refused the session connection: ", refusal.text);
  switch (refusal.reason) {
    case RefusalReason::kBadToken:
    case RefusalReason::kWrongPeer:
      return absl::PermissionDeniedError(text);
    case RefusalReason::kUnknownSession:
      return absl::NotFoundError(text);
    case RefusalReason::kOccupied:
      return absl::AlreadyExistsError(text);
    default:
      return absl::FailedPreconditionError(text);
  }
}

bool ConstantTimeEqual(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace ferry::migration
