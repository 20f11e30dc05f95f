#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The guest's log stream (hcsshim: port 109): one line of JSON per record, with the members
// "level", "msg" and "time" of hcsshim's agent. Ferry's agent adds "seq", and the host answers on
// the same connection with the number of the last record that it has written down, as a line of its
// own. The agent sends what lies behind that number again on the next connection.
namespace ferry::bridge {

// Kernel numbers: 0 is an emergency, 7 is for debugging.
enum class LogLevel : uint8_t {
  kEmergency,
  kAlert,
  kCritical,
  kError,
  kWarning,
  kNotice,
  kInfo,
  kDebug
};

struct LogRecord {
  uint64_t sequence = 0;  // 0: not numbered
  LogLevel level = LogLevel::kInfo;
  std::string message;

  bool operator==(const LogRecord&) const = default;
};

// Longer lines are cut by who reads them. A record of the kernel's has at most 1 KiB, of which each
// byte may take five here.
inline constexpr size_t kMaxLogLine = 8192;

// With its newline.
std::string Encode(const LogRecord& record);

// Takes any line (without its newline): one that is no record is a message of its own, which is how
// the last words of an agent that fails come.
LogRecord DecodeLogLine(std::string_view line);

// An acknowledgement, with its newline, and back. nullopt: it is none.
std::string EncodeLogAck(uint64_t sequence);
std::optional<uint64_t> DecodeLogAck(std::string_view line);

// Splits a stream into lines, and bounds them.
class LogLines {
 public:
  void Append(std::string_view bytes);

  // The next line, without its newline; of one that is too long its first kMaxLogLine bytes.
  std::optional<std::string> Next();

 private:
  std::string pending_;
  size_t begin_ = 0;       // of what Next() has not returned yet
  bool skipping_ = false;  // to the end of a line that was too long
};

}  // namespace ferry::bridge
