#include "tools/ferryctl/attach_route.h"

#include <algorithm>

#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

// A VM in mid-flight may be unknown to both hosts for a moment; after this many answers from each
// it is gone.
constexpr int kNotFoundRounds = 6;

}  // namespace

std::vector<std::string> AttachRoute::Candidates() const {
  std::vector<std::string> all;
  for (const std::string* address : {&there_, &here_, &previous_}) {
    if (address->empty() || std::find(all.begin(), all.end(), *address) != all.end()) continue;
    all.push_back(*address);
  }
  return all;
}

void AttachRoute::OnOpened() {
  const std::string now = target();
  if (now != here_) previous_ = here_;
  here_ = now;
  there_.clear();
  target_.clear();
  follows_ = true;
  attempts_ = 0;
  not_found_ = 0;
  waits_for_restore_ = false;
}

void AttachRoute::OnMoved(std::string destination) {
  there_ = std::move(destination);
  target_ = there_;
}

void AttachRoute::OnBroken() { target_ = Candidates().front(); }

void AttachRoute::OnRefused(const absl::Status& status) {
  ++attempts_;
  waits_for_restore_ = false;
  not_found_ = status.code() == absl::StatusCode::kNotFound ? not_found_ + 1 : 0;
  switch (status.code()) {
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
      fatal_ = true;
      break;
    default:
      // What was not there is nothing to follow: the answer stands.
      if (!follows_) fatal_ = true;
  }
  if (const std::string destination = rpc::MovedTo(status); !destination.empty() && !fatal_) {
    OnMoved(destination);
    return;
  }
  waits_for_restore_ = !fatal_ && rpc::ReasonOf(status) == "vm_saved";
  // Whoever has the saved VM is the one to start it: nobody else is worth asking.
  if (waits_for_restore_) return;
  const std::vector<std::string> all = Candidates();
  const auto current = std::find(all.begin(), all.end(), target());
  const size_t next = current == all.end() ? 0 : (current - all.begin() + 1) % all.size();
  target_ = all[next];
}

std::chrono::milliseconds AttachRoute::delay() const {
  if (attempts_ == 0) return std::chrono::milliseconds(0);
  const int round = (attempts_ - 1) / static_cast<int>(Candidates().size());
  return std::chrono::milliseconds(std::min(1000, 20 << std::min(round, 6)));
}

bool AttachRoute::hopeless() const {
  return fatal_ || not_found_ >= kNotFoundRounds * static_cast<int>(Candidates().size());
}

}  // namespace ferry::ctl
