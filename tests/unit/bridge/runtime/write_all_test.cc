#include "bridge/runtime/write_all.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <thread>

#include "bridge/runtime/unique_fd.h"

namespace ferry {
namespace {

TEST(WriteAllTest, WhatIsTakenInPiecesArrivesAsAWhole) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  // More than a pipe holds.
  const std::string sent(1'000'000, 'x');
  std::string got;
  std::thread reader([&out, &got] {
    std::array<char, 4096> piece{};
    for (ssize_t count = 1; count > 0;) {
      count = ::read(out.get(), piece.data(), piece.size());
      if (count > 0) got.append(piece.data(), static_cast<size_t>(count));
    }
  });
  EXPECT_TRUE(WriteAll(in.get(), sent));
  in.Reset();
  reader.join();
  EXPECT_TRUE(got == sent);
}

TEST(WriteAllTest, AnErrorIsTold) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full.valid());
  EXPECT_FALSE(WriteAll(full.get(), "x"));
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_TRUE(WriteAll(full.get(), ""));
}

}  // namespace
}  // namespace ferry
