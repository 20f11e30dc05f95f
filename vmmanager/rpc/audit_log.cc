#include "vmmanager/rpc/audit_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::rpc {
namespace {

std::string Value(const std::string& text) { return Printable(text, kMaxAuditValue); }

std::string ToLine(const AuditRecord& record) {
  boost::json::object line;
  line["time"] =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromChrono(record.time), absl::UTCTimeZone());
  const Caller& caller = record.caller;
  if (caller.way == Caller::Way::kLocal) {
    line["uid"] = static_cast<int64_t>(static_cast<int32_t>(caller.uid));
  } else if (!caller.address.empty()) {
    line["address"] = Value(caller.address);
  }
  if (caller.way == Caller::Way::kCertificate) {
    line["name"] = Value(caller.identity.name);
    boost::json::array& roles = line["roles"].emplace_array();
    for (const std::string& role : caller.identity.roles.Names()) roles.emplace_back(role);
  }
  line["method"] = Value(record.method);
  // In an object of its own, so that nothing of it can pass for what the daemon says.
  boost::json::object& request = line["request"].emplace_object();
  for (const auto& [key, value] : record.details) request[key] = Value(value);
  line["outcome"] = record.outcome;
  if (!record.reason.empty()) line["reason"] = Value(record.reason);
  if (record.took) line["took_ms"] = record.took->count();
  return boost::json::serialize(line) + "\n";
}

bool Exists(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path, AuditLimits limits) {
  std::unique_ptr<AuditLog> log(new AuditLog(std::move(path), limits));
  RETURN_IF_ERROR(log->OpenFile());
  log->syncer_ = std::thread([raw = log.get()] { raw->KeepOnDisk(); });
  return log;
}

AuditLog::~AuditLog() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (syncer_.joinable()) syncer_.join();
}

// On failure the file that was open stays in use.
absl::Status AuditLog::OpenFile() {
  UniqueFd file(
      ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat info {};
  if (!file.valid() || ::fchmod(file.get(), 0600) != 0 || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the audit log ", path_));
  }
  if (file_.valid()) former_.push_back(std::move(file_));
  file_ = std::move(file);
  size_ = static_cast<uint64_t>(info.st_size);
  return absl::OkStatus();
}

void AuditLog::Write(const AuditRecord& record) {
  const std::string line = ToLine(record);
  std::lock_guard<std::mutex> lock(mutex_);
  WriteLine(line);
}

void AuditLog::WriteRefusal(const AuditRecord& record) {
  const std::string line = ToLine(record);
  std::lock_guard<std::mutex> lock(mutex_);
  if (const auto now = std::chrono::steady_clock::now(); now >= refusals_until_) {
    TellLeftOut();
    refusals_ = 0;
    refusals_until_ = now + limits_.refusal_time;
  }
  if (refusals_ < limits_.refusals) {
    ++refusals_;
    WriteLine(line);
  } else {
    ++left_out_;
    changed_.notify_all();
  }
}

void AuditLog::TellLeftOut() {
  if (left_out_ == 0) return;
  AuditRecord record;
  record.time = std::chrono::system_clock::now();
  record.method = "refusals";
  record.details = {{"left_out", absl::StrCat(left_out_)}};
  record.outcome = absl::StatusCodeToString(absl::StatusCode::kPermissionDenied);
  record.reason = "too_many";
  left_out_ = 0;
  WriteLine(ToLine(record));
}

void AuditLog::WriteLine(const std::string& line) {
  const absl::Status written = Append(line);
  if (!written.ok() && !failing_) {
    spdlog::error("the audit log is not written as it should be from here on: {}",
                  written.ToString());
  }
  failing_ = !written.ok();
  dirty_ = true;
  changed_.notify_all();
}

absl::Status AuditLog::Append(const std::string& line) {
  // A file that grows beyond its bound is better than lines that are missing.
  absl::Status status;
  if (size_ > 0 && size_ + line.size() > limits_.file_bytes) status = Rotate();
  const ssize_t written = ::write(file_.get(), line.data(), line.size());
  if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("writing ", path_));
  size_ += static_cast<uint64_t>(written);
  if (static_cast<size_t>(written) == line.size()) return status;
  // The disk filled up within the line: whoever reads line by line must not meet half of one.
  size_ -= static_cast<uint64_t>(written);
  (void)::ftruncate(file_.get(), static_cast<off_t>(size_));
  return absl::ResourceExhaustedError(absl::StrCat("writing ", path_, ": the disk is full"));
}

// May have to be tried again after any of its steps, and then loses no file that it moved before.
absl::Status AuditLog::Rotate() {
  const auto former = [this](int number) { return absl::StrCat(path_, ".", number); };
  if (Exists(path_)) {
    int gap = 1;
    while (gap < limits_.former_files && Exists(former(gap))) ++gap;
    for (int i = gap; i > 1; --i) ::rename(former(i - 1).c_str(), former(i).c_str());
    if (::rename(path_.c_str(), former(1).c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", path_));
    }
  }
  return OpenFile();
}

void AuditLog::KeepOnDisk() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const auto awaited = [this] { return dirty_ || closing_; };
    if (left_out_ == 0) {
      changed_.wait(lock, [&] { return awaited() || left_out_ > 0; });
    } else {
      changed_.wait_until(lock, refusals_until_, awaited);
      if (closing_ || std::chrono::steady_clock::now() >= refusals_until_) TellLeftOut();
    }
    if (!dirty_ && closing_) return;
    if (!dirty_) continue;
    dirty_ = false;
    const std::vector<UniqueFd> former = std::exchange(former_, {});
    const UniqueFd file(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
    lock.unlock();
    for (const UniqueFd& each : former) ::fdatasync(each.get());
    if (file.valid()) ::fdatasync(file.get());
    lock.lock();
  }
}

}  // namespace ferry::rpc
