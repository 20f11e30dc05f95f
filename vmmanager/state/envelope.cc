#include "vmmanager/state/envelope.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

constexpr std::string_view kMagic = "FERRYST\n";
constexpr uint32_t kFormatVersion = 1;
constexpr uint32_t kMessageSection = 1;
constexpr uint32_t kCriticalFlag = 1;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kSectionHeaderBytes = 16;
constexpr size_t kDigestBytes = 32;

template <typename T>
void PutNumber(std::string& bytes, T value) {
  for (size_t i = 0; i < sizeof value; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

template <typename T>
T TakeNumber(std::string_view& bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; ++i) {
    value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  bytes.remove_prefix(sizeof value);
  return value;
}

void PutSection(std::string& bytes, uint32_t id, bool critical, std::string_view content) {
  PutNumber<uint32_t>(bytes, id);
  PutNumber<uint32_t>(bytes, critical ? kCriticalFlag : 0);
  PutNumber<uint64_t>(bytes, content.size());
  bytes.append(content);
}

const char* Name(uint32_t kind) {
  if (kind == static_cast<uint32_t>(StateKind::kPlan)) return "plan";
  if (kind == static_cast<uint32_t>(StateKind::kCut)) return "cut";
  return "unknown kind";
}

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(StrCat("the saved state is damaged: ", what,
                                    "; export it again from the VM that still has it"));
}

absl::StatusOr<OpenedState> ReadSections(std::string_view bytes) {
  OpenedState opened;
  bool found = false;
  while (!bytes.empty()) {
    if (bytes.size() < kSectionHeaderBytes) return Damaged("a section is cut off");
    const uint32_t id = TakeNumber<uint32_t>(bytes);
    const uint32_t flags = TakeNumber<uint32_t>(bytes);
    const uint64_t length = TakeNumber<uint64_t>(bytes);
    if (length > bytes.size()) return Damaged("a section is cut off");
    const std::string_view content = bytes.substr(0, length);
    bytes.remove_prefix(length);
    if (id == kMessageSection) {
      if (std::exchange(found, true)) return Damaged("it holds two messages");
      opened.message = std::string(content);
      continue;
    }
    if ((flags & ~kCriticalFlag) != 0 || (flags & kCriticalFlag) != 0) {
      return absl::FailedPreconditionError(
          StrCat("the saved state holds critical section ", id,
                 ", which this ferryd does not know; use a newer ferryd here"));
    }
    opened.unknown_optional.push_back({id, false, std::string(content)});
  }
  if (!found) return Damaged("it holds no message");
  return opened;
}

}  // namespace

std::string Seal(StateKind kind, std::string_view message, const std::vector<StateSection>& extra) {
  std::string sections;
  PutSection(sections, kMessageSection, true, message);
  for (const StateSection& section : extra) {
    PutSection(sections, section.id, section.critical, section.bytes);
  }
  std::string bytes(kMagic);
  PutNumber<uint32_t>(bytes, kFormatVersion);
  PutNumber<uint32_t>(bytes, static_cast<uint32_t>(kind));
  PutNumber<uint64_t>(bytes, kHeaderBytes + sections.size() + kDigestBytes);
  bytes += sections;
  return bytes + Sha256(bytes);
}

absl::StatusOr<OpenedState> Open(StateKind kind, std::string_view bytes) {
  if (bytes.size() > kMaxStateBytes) {
    return absl::InvalidArgumentError(StrCat(
        "a saved state of ", bytes.size(), " bytes is larger than the limit of ", kMaxStateBytes));
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("this is not a saved state of Ferry");
  }
  if (bytes.size() < kHeaderBytes + kDigestBytes) return Damaged("it is cut off");
  const std::string_view signed_bytes = bytes.substr(0, bytes.size() - kDigestBytes);
  std::string_view rest = signed_bytes.substr(kMagic.size());
  const uint32_t version = TakeNumber<uint32_t>(rest);
  const uint32_t found_kind = TakeNumber<uint32_t>(rest);
  const uint64_t length = TakeNumber<uint64_t>(rest);
  // The digest comes first: what it does not cover means nothing.
  if (Sha256(signed_bytes) != bytes.substr(bytes.size() - kDigestBytes)) {
    return Damaged(length > bytes.size() ? "it is cut off" : "its digest does not fit");
  }
  if (version != kFormatVersion) {
    return absl::FailedPreconditionError(StrCat("the saved state has format version ", version,
                                                "; this ferryd knows ", kFormatVersion,
                                                "; bring both hosts to neighbouring releases"));
  }
  if (found_kind != static_cast<uint32_t>(kind)) {
    return absl::FailedPreconditionError(StrCat("the saved state is a ", Name(found_kind),
                                                ", not a ", Name(static_cast<uint32_t>(kind))));
  }
  if (length != bytes.size()) return Damaged("its length does not fit");
  return ReadSections(rest);
}

std::string Sha256(std::string_view bytes) {
  std::string digest(kDigestBytes, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr,
             EVP_sha256(), nullptr);
  return digest;
}

std::string ToHex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text.push_back(kDigits[static_cast<unsigned char>(byte) >> 4]);
    text.push_back(kDigits[static_cast<unsigned char>(byte) & 15]);
  }
  return text;
}

absl::StatusOr<std::string> FileSha256(const std::string& path, uint64_t max_bytes) {
  // Opening a FIFO waits for its writer, unless told not to.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) {
    return absl::NotFoundError(StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(StrCat(path, " is not a regular file"));
  }
  const auto too_large = [&] {
    return absl::FailedPreconditionError(
        StrCat(path, " is larger than the limit of ", max_bytes, " bytes"));
  };
  if (static_cast<uint64_t>(info.st_size) > max_bytes) return too_large();
  uint64_t total = 0;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                  EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(256 * 1024);
  while (true) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return absl::UnavailableError(StrCat("cannot read ", path, ": ", std::strerror(errno)));
    }
    if (count == 0) break;
    total += static_cast<uint64_t>(count);
    if (total > max_bytes) return too_large();
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(count));
  }
  std::string digest(kDigestBytes, '\0');
  EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

}  // namespace ferry::vm
