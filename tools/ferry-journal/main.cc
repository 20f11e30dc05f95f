// ferry-journal: prints the journal of a host, and checks that none of it was lost or altered.
#include <signal.h>

#include <cstdio>
#include <string>

#include "vmmanager/store/journal_file.h"

namespace ferry::tools {
namespace {

// Documented in docs/ferryd.md.
constexpr int kExitDamaged = 1;
constexpr int kExitNotRead = 2;

// Whoever interrupts the reading does so once its private copy is gone.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t held;
    ::sigemptyset(&held);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&held, signal);
    ::sigprocmask(SIG_BLOCK, &held, &former_);
  }
  ~HeldSignals() { ::sigprocmask(SIG_SETMASK, &former_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t former_;
};

absl::StatusOr<vm::JournalReport> Read(const std::string& path) {
  const HeldSignals held;
  return vm::ReadJournalFile(path);
}

int Main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr,
                 "Usage: ferry-journal STATE-DIR/ferry.db\n"
                 "Prints every record (sequence, session, record, epoch, VM), and checks the "
                 "chain.\n");
    return kExitNotRead;
  }
  const auto report = Read(argv[1]);
  if (!report.ok()) {
    std::fprintf(stderr, "ferry-journal: %s\n", std::string(report.status().message()).c_str());
    return kExitNotRead;
  }
  for (const vm::JournalRecord& record : report->records) {
    std::printf("%llu\t%s\t%s\t%llu\t%s\n", static_cast<unsigned long long>(record.sequence),
                record.session_id.c_str(), record.kind.c_str(),
                static_cast<unsigned long long>(record.epoch), record.vm_id.c_str());
  }
  if (report->intact.ok()) return 0;
  std::fprintf(stderr, "ferry-journal: %s\n", std::string(report->intact.message()).c_str());
  return kExitDamaged;
}

}  // namespace
}  // namespace ferry::tools

int main(int argc, char** argv) { return ferry::tools::Main(argc, argv); }
