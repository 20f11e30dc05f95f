#include "migration/commit/proof.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <optional>

#include "absl/status/status.h"
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
  PutText(body, proof.detail);
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
  proof.detail = reader.Text();
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
