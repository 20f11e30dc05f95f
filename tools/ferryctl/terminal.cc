#include "tools/ferryctl/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

namespace ferry::ctl {

bool IsTerminal(int fd) { return ::isatty(fd) == 1; }

std::optional<v1::TerminalSize> TerminalSizeOf(int fd) {
  winsize window{};
  if (::ioctl(fd, TIOCGWINSZ, &window) != 0) return std::nullopt;
  v1::TerminalSize size;
  size.set_rows(window.ws_row);
  size.set_columns(window.ws_col);
  return size;
}

RawMode::RawMode(int fd) : fd_(fd) {
  termios mode{};
  if (::tcgetattr(fd_, &mode) != 0) return;
  saved_ = mode;
  ::cfmakeraw(&mode);
  ::tcsetattr(fd_, TCSADRAIN, &mode);
}

RawMode::~RawMode() {
  if (saved_) ::tcsetattr(fd_, TCSADRAIN, &*saved_);
}

}  // namespace ferry::ctl
