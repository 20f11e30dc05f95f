#pragma once

#include <functional>

#include "bridge/runtime/async.h"

namespace ferry::migration {

// Does something once a time has passed, unless it is destroyed before. Thread: the executor's
// only.
class TimeLimit {
 public:
  // Begins at once. `on_over` is not to hold what owns this.
  TimeLimit(Executor executor, milliseconds limit, std::function<Task<void>()> on_over);

 private:
  TaskScope scope_;
};

}  // namespace ferry::migration
