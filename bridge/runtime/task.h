#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>

namespace ferry {

namespace asio = boost::asio;

// A lazily started coroutine. All of Ferry's control logic runs as tasks on one io_context thread,
// so tasks share state without locks; between two co_awaits nothing else runs.
//
// Two rules keep GCC 12's coroutines honest: name the arguments of an awaited call (a braced
// temporary inside a co_await expression may be destroyed twice), and never make a capturing lambda
// a coroutine unless the lambda object outlives it.
template <typename T = void>
using Task = asio::awaitable<T>;

using Executor = asio::any_io_executor;

}  // namespace ferry
