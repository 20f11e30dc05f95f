#include "vmmanager/store/journal_witness.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "absl/strings/escaping.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {
namespace {

// One line of fixed length: 20 digits, a space, the hash in hex, a line feed.
constexpr size_t kDigits = 20;
constexpr size_t kHashHex = 64;
constexpr size_t kLine = kDigits + 1 + kHashHex + 1;

}  // namespace

absl::StatusOr<JournalWitness> JournalWitness::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    return absl::UnavailableError(StrCat("cannot open ", path, ": ", std::strerror(errno)));
  }
  return JournalWitness(std::move(fd), path);
}

absl::Status JournalWitness::Note(const JournalHead& record) {
  const std::string number = std::to_string(record.sequence);
  std::string line(kDigits - number.size(), '0');
  line += StrCat(number, " ", absl::BytesToHexString(record.hash), "\n");
  if (line.size() != kLine) return absl::InternalError("a journal hash has the wrong length");
  const ssize_t written = ::pwrite(fd_.get(), line.data(), line.size(), 0);
  if (written == static_cast<ssize_t>(line.size()) && ::fdatasync(fd_.get()) == 0) {
    return absl::OkStatus();
  }
  const int error = written < 0 ? errno : ENOSPC;
  return absl::ResourceExhaustedError(StrCat("cannot write ", path_, ": ", std::strerror(error)));
}

absl::Status JournalWitness::Restore(const std::optional<JournalHead>& former) {
  if (former) return Note(*former);
  if (::ftruncate(fd_.get(), 0) == 0) return absl::OkStatus();
  return absl::UnavailableError(StrCat("cannot empty ", path_, ": ", std::strerror(errno)));
}

absl::StatusOr<std::optional<JournalHead>> JournalWitness::Read() const {
  std::string line(kLine + 1, '\0');
  const ssize_t size = ::pread(fd_.get(), line.data(), line.size(), 0);
  if (size == 0) return std::nullopt;
  const auto damaged = absl::DataLossError(StrCat(path_, " is damaged"));
  if (size != static_cast<ssize_t>(kLine) || line[kDigits] != ' ' || line[kLine - 1] != '\n') {
    return damaged;
  }
  JournalHead head;
  const char* end = line.data() + kDigits;
  const auto parsed = std::from_chars(line.data(), end, head.sequence);
  const std::string hex = line.substr(kDigits + 1, kHashHex);
  const bool is_hex = std::all_of(hex.begin(), hex.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (parsed.ec != std::errc() || parsed.ptr != end || !is_hex) return damaged;
  head.hash = absl::HexStringToBytes(hex);
  return head;
}

}  // namespace ferry::vm
