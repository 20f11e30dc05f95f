#include "guestmanager/create_requests.h"

#include <utility>

namespace ferry::guest {

CreateRequests::Making::Making(CreateRequests& requests, std::string id)
    : requests_(requests), id_(std::move(id)) {
  if (!id_.empty()) entry_ = requests_.Add(id_);
}

CreateRequests::Making::~Making() {
  if (entry_ == nullptr || entry_->settled.is_set()) return;
  auto found = requests_.entries_.find(id_);
  if (found != requests_.entries_.end() && found->second == entry_) {
    requests_.entries_.erase(found);
    std::erase(requests_.order_, id_);
  }
  entry_->settled.Set();
}

void CreateRequests::Making::Made(uint32_t pid) {
  if (entry_ == nullptr) return;
  entry_->pid = pid;
  entry_->settled.Set();
}

std::shared_ptr<CreateRequests::Entry> CreateRequests::Find(const std::string& id) const {
  auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second;
}

void CreateRequests::Restore(const std::string& id, uint32_t pid) {
  if (id.empty()) return;
  std::shared_ptr<Entry> entry = Add(id);
  entry->pid = pid;
  entry->settled.Set();
}

std::shared_ptr<CreateRequests::Entry> CreateRequests::Add(const std::string& id) {
  std::shared_ptr<Entry>& entry = entries_[id];
  if (entry == nullptr) order_.push_back(id);
  entry = std::make_shared<Entry>(executor_);
  std::shared_ptr<Entry> added = entry;
  while (order_.size() > limit_) {
    entries_.erase(order_.front());
    order_.pop_front();
  }
  return added;
}

}  // namespace ferry::guest
