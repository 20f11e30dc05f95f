#pragma once

#include <string>
#include <vector>

#include "tools/ferryctl/command.h"

namespace ferry::ctl {

struct StatsArguments {
  std::vector<std::string> names;  // empty: all that run
  std::string vm;
  bool once = false;
};

// `container stats`: a table that is drawn anew each second on a terminal, and once elsewhere; with
// JSON an object per line and container, each second.
Task<int> ShowStats(Client* client, StatsArguments arguments);

}  // namespace ferry::ctl
