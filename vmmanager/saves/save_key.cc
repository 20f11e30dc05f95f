#include "vmmanager/saves/save_key.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

constexpr size_t kKeyBytes = sizeof(SaveKey::bytes);
constexpr size_t kLongestKeyFile = 2 * kKeyBytes + 1;

// One byte more than a key file has, to see that there is no more.
struct KeyText {
  std::array<char, kLongestKeyFile + 1> bytes{};
  size_t size = 0;
  KeyText() = default;
  KeyText(const KeyText&) = delete;
  KeyText& operator=(const KeyText&) = delete;
  ~KeyText() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
  std::string_view View() const { return {bytes.data(), size}; }
};

absl::Status CheckKeyFile(int file, const std::string& path) {
  struct stat info {};
  if (::fstat(file, &info) != 0) {
    return absl::ErrnoToStatus(errno, StrCat("cannot read the key file ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(StrCat("the key file ", path, " is not a regular file"));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        StrCat("others than its owner may use the key file ", path, "; run: chmod 600 ", path));
  }
  return absl::OkStatus();
}

absl::Status ReadText(int file, const std::string& path, KeyText& text) {
  while (text.size < text.bytes.size()) {
    const ssize_t count =
        ::read(file, text.bytes.data() + text.size, text.bytes.size() - text.size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, StrCat("cannot read the key file ", path));
    if (count == 0) break;
    text.size += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

int DigitValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

bool ParseHex(std::string_view text, SaveKey& key) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.size() != 2 * kKeyBytes) return false;
  for (size_t i = 0; i < kKeyBytes; ++i) {
    const int high = DigitValue(text[2 * i]);
    const int low = DigitValue(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    key.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

}  // namespace

SaveKey::~SaveKey() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

absl::StatusOr<SaveKey> ReadSaveKey(const std::string& path) {
  // Opening a FIFO waits for its writer, unless told not to.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) {
    return absl::ErrnoToStatus(errno, StrCat("cannot open the key file ", path));
  }
  absl::Status status = CheckKeyFile(file.get(), path);
  KeyText text;
  if (status.ok()) status = ReadText(file.get(), path, text);
  if (!status.ok()) return status;
  SaveKey key;
  if (text.size == kKeyBytes) {
    std::memcpy(key.bytes.data(), text.bytes.data(), kKeyBytes);
    return key;
  }
  if (ParseHex(text.View(), key)) return key;
  return absl::InvalidArgumentError(
      StrCat("the key file ", path, " holds no key: it must have 32 bytes, or 64 hex digits"));
}

}  // namespace ferry::vm
