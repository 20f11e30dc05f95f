#include "bridge/container/fake_filesystems.h"

#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {

void FakeFilesystems::Mount(const std::string& name) {
  DiskFilesystem it;
  it.device = std::to_string(all_.size());
  it.name = name;
  all_.push_back(std::move(it));
}

void FakeFilesystems::Release() {
  hangs.clear();
  released_.Set();
}

Task<absl::Status> FakeFilesystems::Do(std::string call) {
  if (hangs.contains(call)) {
    ++waiting;
    co_await released_.Wait();
    --waiting;
  }
  const auto failure = fails.find(call);
  if (failure != fails.end()) {
    ++failed;
    co_return failure->second;
  }
  calls.push_back(call);
  if (after) after(call);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<DiskFilesystem>>> FakeFilesystems::Writable() {
  const auto failure = fails.find("list");
  if (failure != fails.end()) co_return failure->second;
  co_return all_;
}

Task<absl::Status> FakeFilesystems::Freeze(DiskFilesystem it) {
  CO_RETURN_IF_ERROR(co_await Do("freeze " + it.name));
  frozen.insert(it.name);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeFilesystems::Thaw(DiskFilesystem it) {
  CO_RETURN_IF_ERROR(co_await Do("thaw " + it.name));
  const bool was = frozen.erase(it.name) != 0;
  co_return was ? absl::OkStatus() : absl::FailedPreconditionError("it is not frozen");
}

}  // namespace ferry::bridge
