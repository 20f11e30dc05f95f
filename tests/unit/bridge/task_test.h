#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "tests/unit/bridge/run_task.h"

namespace ferry {

// A folder of the test's own, removed with it.
class TestFolder {
 public:
  TestFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "ferry-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

  // A folder in it.
  std::string Make(const std::string& name) const {
    const std::string path = path_ + "/" + name;
    std::filesystem::create_directory(path);
    return path;
  }

 private:
  std::string path_;
};

// Lets a test that is no coroutine call tasks one after another.
class TaskTest : public ::testing::Test {
 protected:
  // Runs the task to its end.
  template <typename T>
  T Await(Task<T> task) {
    return Finish(Begin(std::move(task)));
  }

  void Await(Task<void> task) { RunTask(io_, std::move(task)); }

  template <typename T>
  using Pending = std::shared_ptr<std::optional<T>>;

  // Starts the task; it goes on whenever another one is awaited.
  template <typename T>
  Pending<T> Begin(Task<T> task) {
    auto pending = std::make_shared<std::optional<T>>();
    auto keep = [](Pending<T> out, Task<T> inner) -> Task<void> {
      out->emplace(co_await std::move(inner));
    };
    Spawn(io_.get_executor(), keep(pending, std::move(task)));
    return pending;
  }

  template <typename T>
  T Finish(Pending<T> pending) {
    Until([&] { return pending->has_value(); });
    if (!pending->has_value()) std::abort();
    return **pending;
  }

  // Lets tasks run until `holds`.
  void Until(const std::function<bool()>& holds) {
    io_.restart();
    while (!holds()) {
      if (io_.run_one() == 0) {
        ADD_FAILURE() << "the test waits for something that nobody will do";
        return;
      }
    }
  }

  // Lets tasks run until everything waits for the test or for time to pass.
  void Settle() {
    io_.restart();
    while (io_.poll() > 0) {
    }
  }

  asio::io_context io_{1};
};

}  // namespace ferry
