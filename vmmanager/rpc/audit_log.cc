#include "vmmanager/rpc/audit_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::rpc {
namespace {

std::string ToLine(const AuditRecord& record) {
  boost::json::object line;
  line["time"] =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromChrono(record.time), absl::UTCTimeZone());
  const Caller& caller = record.caller;
  if (caller.way == Caller::Way::kLocal) {
    line["uid"] = static_cast<int64_t>(static_cast<int32_t>(caller.uid));
  } else {
    line["address"] = caller.address;
  }
  if (caller.way == Caller::Way::kCertificate) {
    line["name"] = caller.identity.name;
    boost::json::array& roles = line["roles"].emplace_array();
    for (const std::string& role : caller.identity.roles.Names()) roles.emplace_back(role);
  }
  line["method"] = record.method;
  // In an object of its own, so that nothing of it can pass for what the daemon says.
  boost::json::object& request = line["request"].emplace_object();
  for (const auto& [key, value] : record.details) request[key] = value;
  line["outcome"] = record.outcome;
  if (!record.reason.empty()) line["reason"] = record.reason;
  if (record.took) line["took_ms"] = record.took->count();
  return boost::json::serialize(line) + "\n";
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

absl::Status AuditLog::OpenFile() {
  file_.Reset(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat info {};
  if (!file_.valid() || ::fchmod(file_.get(), 0600) != 0 || ::fstat(file_.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the audit log ", path_));
  }
  size_ = static_cast<uint64_t>(info.st_size);
  return absl::OkStatus();
}

void AuditLog::Write(const AuditRecord& record) {
  const std::string line = ToLine(record);
  std::lock_guard<std::mutex> lock(mutex_);
  const absl::Status written = Append(line);
  if (!written.ok() && !failing_) {
    spdlog::error("the audit log lacks lines from here on: {}", written.ToString());
  }
  failing_ = !written.ok();
  dirty_ = true;
  changed_.notify_all();
}

absl::Status AuditLog::Append(const std::string& line) {
  if (size_ > 0 && size_ + line.size() > limits_.file_bytes) RETURN_IF_ERROR(Rotate());
  const ssize_t written = ::write(file_.get(), line.data(), line.size());
  if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("writing ", path_));
  size_ += static_cast<uint64_t>(written);
  if (static_cast<size_t>(written) == line.size()) return absl::OkStatus();
  // The disk filled up within the line: whoever reads line by line must not meet half of one.
  size_ -= static_cast<uint64_t>(written);
  (void)::ftruncate(file_.get(), static_cast<off_t>(size_));
  return absl::ResourceExhaustedError(absl::StrCat("writing ", path_, ": the disk is full"));
}

absl::Status AuditLog::Rotate() {
  ::fdatasync(file_.get());
  const auto former = [this](int number) { return absl::StrCat(path_, ".", number); };
  for (int i = limits_.former_files; i > 1; --i) {
    ::rename(former(i - 1).c_str(), former(i).c_str());
  }
  if (::rename(path_.c_str(), former(1).c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", path_));
  }
  return OpenFile();
}

void AuditLog::KeepOnDisk() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return dirty_ || closing_; });
    if (!dirty_) return;
    dirty_ = false;
    const UniqueFd file(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
    lock.unlock();
    if (file.valid()) ::fdatasync(file.get());
    lock.lock();
  }
}

}  // namespace ferry::rpc
