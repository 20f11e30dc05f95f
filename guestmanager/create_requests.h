#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "bridge/runtime/async.h"

namespace ferry::guest {

// Which request made which process, so that a repeated request makes no second one. The oldest are
// forgotten first. Thread: the executor's only.
class CreateRequests {
 public:
  struct Entry {
    explicit Entry(Executor executor) : settled(executor) {}
    AsyncEvent settled;
    uint32_t pid = 0;  // once settled; 0: it made none, and is forgotten
  };

  // One request under way; forgets it unless it made a process. An empty id is nobody's.
  class Making {
   public:
    Making(CreateRequests& requests, std::string id);
    ~Making();
    Making(const Making&) = delete;
    Making& operator=(const Making&) = delete;
    void Made(uint32_t pid);

   private:
    CreateRequests& requests_;
    std::string id_;
    std::shared_ptr<Entry> entry_;
  };

  explicit CreateRequests(Executor executor, size_t limit = 1024)
      : executor_(std::move(executor)), limit_(limit) {}

  // nullptr if it is not known.
  std::shared_ptr<Entry> Find(const std::string& id) const;
  // A process that was made before this daemon, or this host, had the guest.
  void Restore(const std::string& id, uint32_t pid);

 private:
  std::shared_ptr<Entry> Add(const std::string& id);

  Executor executor_;
  size_t limit_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  std::deque<std::string> order_;  // the oldest first
};

}  // namespace ferry::guest
