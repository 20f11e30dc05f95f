#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/rpc/caller.h"

namespace ferry::rpc {

// One line of the audit log.
struct AuditRecord {
  std::chrono::system_clock::time_point time;  // when the call came
  Caller caller;
  std::string method;                          // "VmService/StopVm"
  std::map<std::string, std::string> details;  // what it was about: "vm", "session_id", ...
  std::string outcome;                         // "OK", a status code's name, or "begun"
  std::string reason;                          // of a failure, a stable word
  std::optional<std::chrono::milliseconds> took;
};

// Of any value in a line, so much is kept.
inline constexpr size_t kMaxAuditValue = 256;

struct AuditLimits {
  uint64_t file_bytes = 8 << 20;
  int former_files = 4;  // audit.log.1 is the newest of them
  // So many lines about refusals in so much time: nobody must be able to push out of the files what
  // was done by calling what is not permitted.
  int refusals = 10;
  std::chrono::milliseconds refusal_time{10'000};
};

// Who changed what, as JSON lines in a file that only the daemon's user reads. A line is with the
// kernel when Write returns, so that it survives the daemon's death, and on the disk soon after.
// Thread-safe.
class AuditLog {
 public:
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::string path, AuditLimits limits = {});
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // What cannot be written is logged and lost: a full disk must not stop the host.
  void Write(const AuditRecord& record);

  // For what was refused and had no effect. Beyond the limits such lines are left out, and a later
  // one tells how many.
  void WriteRefusal(const AuditRecord& record);

 private:
  AuditLog(std::string path, AuditLimits limits) : path_(std::move(path)), limits_(limits) {}
  absl::Status OpenFile();
  void WriteLine(const std::string& line);
  absl::Status Append(const std::string& line);
  absl::Status Rotate();
  void TellLeftOut();
  void KeepOnDisk();

  const std::string path_;
  const AuditLimits limits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  UniqueFd file_;
  std::vector<UniqueFd> former_;  // no longer written to, and perhaps not on the disk yet
  uint64_t size_ = 0;
  int refusals_ = 0;  // written in the current time
  uint64_t left_out_ = 0;
  std::chrono::steady_clock::time_point refusals_until_;
  bool dirty_ = false;
  bool failing_ = false;
  bool closing_ = false;
  std::thread syncer_;
};

}  // namespace ferry::rpc
