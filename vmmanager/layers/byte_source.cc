#include "vmmanager/layers/byte_source.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::layers {
namespace {

constexpr absl::string_view kDigestPrefix = "sha256:";
constexpr size_t kDigestHex = 64;
constexpr size_t kDrain = size_t{64} << 10;

}  // namespace

absl::StatusOr<size_t> FileSource::Read(absl::Span<char> buffer) {
  const size_t wanted = static_cast<size_t>(std::min<uint64_t>(buffer.size(), left_));
  if (wanted == 0) return 0;
  ssize_t count = 0;
  do {
    count = ::pread(fd_, buffer.data(), wanted, static_cast<off_t>(offset_));
  } while (count < 0 && errno == EINTR);
  if (count < 0) return absl::ErrnoToStatus(errno, "cannot read the archive");
  offset_ += static_cast<uint64_t>(count);
  left_ = count == 0 ? 0 : left_ - static_cast<uint64_t>(count);
  return static_cast<size_t>(count);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
  EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
}

void Sha256::Update(absl::Span<const char> bytes) {
  EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
}

std::string Sha256::Finish() {
  std::array<unsigned char, 32> digest{};
  EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
  return absl::StrCat(kDigestPrefix,
                      absl::BytesToHexString(absl::string_view(
                          reinterpret_cast<const char*>(digest.data()), digest.size())));
}

absl::StatusOr<size_t> HashingSource::Read(absl::Span<char> buffer) {
  ASSIGN_OR_RETURN(const size_t count, inner_.Read(buffer));
  hash_.Update(buffer.first(count));
  return count;
}

absl::StatusOr<std::string> HashingSource::Finish() {
  std::vector<char> rest(kDrain);
  while (true) {
    ASSIGN_OR_RETURN(const size_t count, Read(absl::MakeSpan(rest)));
    if (count == 0) return hash_.Finish();
  }
}

absl::StatusOr<size_t> BoundedSource::Read(absl::Span<char> buffer) {
  ASSIGN_OR_RETURN(const size_t count, inner_.Read(buffer));
  RETURN_IF_ERROR(budget_.SpendBytes(count));
  return count;
}

bool IsDigest(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, kDigestPrefix) || text.size() != kDigestHex) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace ferry::layers
