#pragma once

#include <termios.h>

#include <optional>

#include "ferry/v1/common.pb.h"

namespace ferry::ctl {

bool IsTerminal(int fd);

// The window's size, or nullopt if `fd` is no terminal.
std::optional<v1::TerminalSize> TerminalSizeOf(int fd);

// Puts a terminal into raw mode and restores it, whatever happens in between.
class RawMode {
 public:
  explicit RawMode(int fd);
  ~RawMode();
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  const int fd_;
  std::optional<termios> saved_;
};

}  // namespace ferry::ctl
