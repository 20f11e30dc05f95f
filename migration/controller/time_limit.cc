#include "migration/controller/time_limit.h"

#include <utility>

namespace ferry::migration {
namespace {

Task<void> Run(milliseconds limit, std::function<Task<void>()> on_over) {
  const Executor executor = co_await asio::this_coro::executor;
  co_await Delay(limit);
  // Not in this task, for what is done may end who owns the limit.
  Spawn(executor, on_over());
}

}  // namespace

TimeLimit::TimeLimit(Executor executor, milliseconds limit, std::function<Task<void>()> on_over)
    : scope_(std::move(executor)) {
  scope_.Spawn(Run(limit, std::move(on_over)));
}

}  // namespace ferry::migration
