#include "tools/ferryd/signals.h"

#include <csignal>

namespace ferry::tools {

void IgnoreTellingSignals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGIO, SIG_IGN);
}

}  // namespace ferry::tools
