#include <csignal>
#include <cstdlib>

#include "tools/ferryctl/command.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  // gRPC's own log lines mean nothing to a person; errors reach them as statuses.
  ::setenv("GRPC_VERBOSITY", "NONE", 0);
  return ferry::ctl::RunFerryctl(argc, argv);
}
