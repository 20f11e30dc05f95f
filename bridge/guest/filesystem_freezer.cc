#include "bridge/guest/filesystem_freezer.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/freeze_limits.h"

namespace ferry::bridge {
namespace {

// What is mounted while the others are being frozen is found the next time.
constexpr int kMostListings = 5;

absl::Status About(const DiskFilesystem& it, const char* what, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("cannot ", what, " ", it.name, ": ", status.message()));
}

}  // namespace

// From a request to freeze until all is thawed again.
struct FilesystemFreezer::Round {
  Round(const Executor& executor, milliseconds limit)
      : patience(ThawPatience(limit)), settled(executor), thawed(executor), deadline(executor) {}

  std::vector<DiskFilesystem> NotFrozen(std::vector<DiskFilesystem> all) const {
    std::erase_if(all, [this](const DiskFilesystem& it) {
      return std::any_of(frozen.begin(), frozen.end(),
                         [&it](const DiskFilesystem& known) { return known.device == it.device; });
    });
    return all;
  }

  void CheckThawed() {
    if (over && !freezing && thawing == 0) thawed.Set();
  }

  const milliseconds patience;         // for a disk that hangs: the host is told meanwhile
  std::vector<DiskFilesystem> frozen;  // in this order
  std::string at;                      // which one is just being frozen
  bool freezing = true;
  bool over = false;
  size_t thawing = 0;
  absl::Status why;                              // it is over
  std::map<std::string, absl::Status> failures;  // to thaw, by device
  AsyncEvent settled;                            // all are frozen, or it is over
  AsyncEvent thawed;                             // it is over, and nothing is left to do
  asio::steady_timer deadline;
};

Task<absl::StatusOr<size_t>> FilesystemFreezer::Freeze(milliseconds limit) {
  const Shared self = shared_from_this();
  if (!closed_.empty()) co_return absl::FailedPreconditionError(closed_);
  if (round_ != nullptr && !round_->thawed.is_set()) {
    co_return absl::FailedPreconditionError(
        round_->over ? "the filesystems that were frozen before are still being thawed"
                     : "the filesystems are frozen already");
  }
  const SharedRound round = std::make_shared<Round>(executor_, limit);
  round_ = round;
  round->deadline.expires_after(limit);
  round->deadline.async_wait([weak = weak_from_this(), limit,
                              late = std::weak_ptr<Round>(round)](boost::system::error_code error) {
    const Shared freezer = weak.lock();
    const SharedRound open = late.lock();
    if (error || freezer == nullptr || open == nullptr) return;
    const std::string at = open->at.empty() ? "" : absl::StrCat(" while freezing ", open->at);
    freezer->End(open, absl::DeadlineExceededError(absl::StrCat(
                           "the ", limit.count(), " ms that the host gave were over", at)));
  });
  Spawn(executor_, FreezeAll(self, round));
  co_await round->settled.Wait();
  if (!round->over) co_return round->frozen.size();
  Task<void> thawed = round->thawed.Wait();
  const absl::Status late = co_await WithDeadline(round->patience, "the disks", std::move(thawed));
  if (late.ok() || round->failures.empty()) co_return round->why;
  co_return absl::Status(round->why.code(),
                         absl::StrCat(round->why.message(), "; since then the agent ",
                                      round->failures.begin()->second.message()));
}

Task<void> FilesystemFreezer::FreezeAll(Shared self, SharedRound round) {
  for (int listings = 0; !round->over; ++listings) {
    absl::StatusOr<std::vector<DiskFilesystem>> all = co_await self->filesystems_.Writable();
    if (!all.ok()) self->End(round, all.status());
    if (round->over) break;
    std::vector<DiskFilesystem> found = round->NotFrozen(*std::move(all));
    if (found.empty()) break;
    if (listings == kMostListings) {
      self->End(round, absl::AbortedError(absl::StrCat("others are mounted all the time, just now ",
                                                       found.back().name)));
      break;
    }
    co_await FreezeThese(self, round, std::move(found));
  }
  round->freezing = false;
  round->settled.Set();
  round->CheckThawed();
}

Task<void> FilesystemFreezer::FreezeThese(Shared self, SharedRound round,
                                          std::vector<DiskFilesystem> left) {
  while (!left.empty() && !round->over) {
    // What was mounted last may lie in what was mounted before.
    const DiskFilesystem it = std::move(left.back());
    left.pop_back();
    round->at = it.name;
    const absl::Status status = co_await self->filesystems_.Freeze(it);
    round->at.clear();
    if (!status.ok()) {
      self->End(round, About(it, "freeze", status));
    } else if (round->over) {
      self->StartThaw(round, it);
    } else {
      round->frozen.push_back(it);
    }
  }
}

void FilesystemFreezer::End(const SharedRound& round, absl::Status why) {
  if (round->over) return;
  round->over = true;
  round->why = std::move(why);
  round->deadline.cancel();
  round->settled.Set();
  // It is not over before all of them are begun, however soon the first are done.
  ++round->thawing;
  for (auto it = round->frozen.rbegin(); it != round->frozen.rend(); ++it) StartThaw(round, *it);
  --round->thawing;
  round->CheckThawed();
}

void FilesystemFreezer::StartThaw(const SharedRound& round, const DiskFilesystem& it) {
  ++round->thawing;
  Spawn(executor_, ThawOne(shared_from_this(), round, it));
}

Task<void> FilesystemFreezer::ThawOne(Shared self, SharedRound round, DiskFilesystem it) {
  while (true) {
    const absl::Status status = co_await self->filesystems_.Thaw(it);
    // It was frozen for all that time.
    if (status.ok()) round->failures.erase(it.device);
    if (!status.ok()) self->NotThawed(round, it, status);
    if (status.ok() || absl::IsFailedPrecondition(status)) break;
    co_await Delay(self->options_.thaw_again);
  }
  --round->thawing;
  round->CheckThawed();
}

void FilesystemFreezer::NotThawed(const SharedRound& round, const DiskFilesystem& it,
                                  const absl::Status& status) {
  const absl::Status failure = About(it, "thaw", status);
  const bool first = round->failures.emplace(it.device, failure).second;
  if (first && options_.log) options_.log(std::string(failure.message()));
}

Task<absl::Status> FilesystemFreezer::Thaw() {
  const Shared self = shared_from_this();
  const SharedRound round = round_;
  if (round == nullptr) co_return absl::FailedPreconditionError("no filesystem is frozen");
  const bool held = !round->over && !round->freezing;
  End(round, absl::CancelledError("the host had them thawed"));
  Task<void> thawed = round->thawed.Wait();
  const absl::Status late =
      co_await WithDeadline(round->patience, "a disk of the guest", std::move(thawed));
  if (!held) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("the filesystems were not frozen any more: ", round->why.message()));
  }
  if (!round->failures.empty()) co_return round->failures.begin()->second;
  co_return late;
}

void FilesystemFreezer::LetGo(const std::string& why) {
  if (round_ != nullptr) End(round_, absl::AbortedError(why));
}

void FilesystemFreezer::Close(const std::string& why) {
  closed_ = why;
  LetGo(why);
}

}  // namespace ferry::bridge
