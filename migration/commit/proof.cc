#include "migration/commit/proof.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

constexpr std::string_view kMagic = "FPRF\x01";
constexpr size_t kMacSize = 32;
constexpr size_t kMaxField = 64 * 1024;

void PutInteger(std::string& out, uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<char>(value >> shift));
}

void PutText(std::string& out, std::string_view text) {
  PutInteger(out, text.size());
  out.append(text);
}

// Takes fields off the front of the bytes; any shortage makes all further reads fail.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  uint64_t Integer() {
    if (bytes_.size() < 8) return Fail();
    uint64_t value = 0;
    for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes_[i]);
    bytes_.remove_prefix(8);
    return value;
  }

  std::string Text() {
    const uint64_t size = Integer();
    if (!ok_ || size > kMaxField || size > bytes_.size()) {
      Fail();
      return {};
    }
    std::string text(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return text;
  }

  bool complete() const { return ok_ && bytes_.empty(); }

 private:
  uint64_t Fail() {
    ok_ = false;
    return 0;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

// What was heard goes in the detail's text, where a release that does not know it takes it for a
// remark: " heard 12 <64 hex digits>". The mark of a VM that was lost has to stay at the end.
constexpr std::string_view kHeard = " heard ";
constexpr size_t kHashHex = 64;
constexpr size_t kEndRoom = 128;  // for what follows the text

// The text without the mark at its end, and whether it had one.
std::pair<std::string_view, bool> SplitLost(std::string_view text) {
  const std::string_view mark = kLostMark;
  if (!text.ends_with(mark)) return {text, false};
  text.remove_suffix(mark.size());
  return {text, true};
}

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// What was heard, at the end of the text.
struct Echo {
  size_t at = 0;  // where it begins
  uint64_t sequence = 0;
  std::string hash;
};

std::optional<Echo> FindEcho(std::string_view text) {
  Echo echo;
  echo.at = text.rfind(kHeard);
  if (echo.at == std::string_view::npos) return std::nullopt;
  const std::string_view heard = text.substr(echo.at + kHeard.size());
  const char* end = heard.data() + heard.size();
  const auto number = std::from_chars(heard.data(), end, echo.sequence);
  if (number.ec != std::errc() || echo.sequence == 0 || number.ptr == end || *number.ptr != ' ') {
    return std::nullopt;
  }
  const std::string_view hash(number.ptr + 1, static_cast<size_t>(end - number.ptr - 1));
  if (hash.size() != kHashHex || !IsHex(hash)) return std::nullopt;
  echo.hash = absl::HexStringToBytes(std::string(hash));
  return echo;
}

// At most that many bytes of UTF-8, without half a character at the end.
std::string_view Cut(std::string_view text, size_t max) {
  if (text.size() <= max) return text;
  while (max > 0 && (static_cast<uint8_t>(text[max]) & 0xc0) == 0x80) --max;
  return text.substr(0, max);
}

std::string TextOf(const Proof& proof) {
  const auto [whole, lost] = SplitLost(proof.detail);
  const std::string_view text = Cut(whole, kMaxField - kEndRoom);
  std::string end;
  if (proof.heard_sequence != 0 && proof.heard_hash.size() == kHashHex / 2) {
    end = StrCat(kHeard, proof.heard_sequence, " ", absl::BytesToHexString(proof.heard_hash));
  } else if (FindEcho(text)) {
    end = ".";  // so that nobody takes the remark for what was heard
  }
  if (lost) end += kLostMark;
  return StrCat(text, end);
}

void TakeText(const std::string& detail, Proof& proof) {
  proof.detail = detail;
  const auto [text, lost] = SplitLost(detail);
  const std::optional<Echo> echo = FindEcho(text);
  if (!echo) return;
  proof.heard_sequence = echo->sequence;
  proof.heard_hash = echo->hash;
  proof.detail = StrCat(text.substr(0, echo->at), lost ? kLostMark : "");
}

std::string Mac(std::string_view body, std::string_view key) {
  std::array<unsigned char, kMacSize> mac{};
  unsigned int size = mac.size();
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(body.data()), body.size(), mac.data(), &size);
  return std::string(mac.begin(), mac.begin() + size);
}

bool KnownKind(uint64_t kind) {
  return kind >= static_cast<uint64_t>(ProofKind::kPrepared) &&
         kind <= static_cast<uint64_t>(ProofKind::kForced);
}

}  // namespace

std::string EncodeProof(const Proof& proof, std::string_view key) {
  std::string body(kMagic);
  PutInteger(body, static_cast<uint64_t>(proof.kind));
  PutText(body, proof.session_id);
  PutText(body, proof.vm_id);
  PutInteger(body, proof.epoch);
  PutText(body, proof.plan_digest);
  PutText(body, proof.state_digest);
  PutText(body, proof.journal_id);
  PutInteger(body, proof.journal_sequence);
  PutText(body, proof.journal_hash);
  PutText(body, TextOf(proof));
  return body + Mac(body, key);
}

absl::StatusOr<Proof> DecodeProof(std::string_view bytes, std::string_view key) {
  if (bytes.size() < kMagic.size() + kMacSize || !bytes.starts_with(kMagic)) {
    return absl::InvalidArgumentError(
        "these bytes are no proof of this version; pass on exactly what the other side returned");
  }
  bytes.remove_prefix(kMagic.size());
  const std::string_view mac = bytes.substr(bytes.size() - kMacSize);
  bytes.remove_suffix(kMacSize);
  const std::string expected = Mac(StrCat(kMagic, bytes), key);
  if (CRYPTO_memcmp(mac.data(), expected.data(), kMacSize) != 0) {
    return absl::PermissionDeniedError(
        "this proof was altered, or made for another session; pass on exactly what the other side "
        "of this session returned");
  }
  Reader reader(bytes);
  Proof proof;
  const uint64_t kind = reader.Integer();
  proof.kind = static_cast<ProofKind>(kind);
  proof.session_id = reader.Text();
  proof.vm_id = reader.Text();
  proof.epoch = reader.Integer();
  proof.plan_digest = reader.Text();
  proof.state_digest = reader.Text();
  proof.journal_id = reader.Text();
  proof.journal_sequence = reader.Integer();
  proof.journal_hash = reader.Text();
  TakeText(reader.Text(), proof);
  if (!reader.complete() || !KnownKind(kind)) {
    return absl::InvalidArgumentError("this proof has an unknown form");
  }
  return proof;
}

std::string_view ToString(ProofKind kind) {
  switch (kind) {
    case ProofKind::kPrepared:
      return "PREPARED";
    case ProofKind::kGo:
      return "GO";
    case ProofKind::kRefused:
      return "REFUSED";
    case ProofKind::kDone:
      return "DONE";
    case ProofKind::kAbort:
      return "ABORT";
    case ProofKind::kForced:
      return "FORCED";
  }
  return "UNKNOWN";
}

}  // namespace ferry::migration
