// ferry-layers: takes an image's archive apart for ferryd, which starts it as a user without
// rights. Before it looks at the archive it gives up all but the descriptors that it was given, so
// an archive that got the better of it would have no more.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "tools/ferry-layers/confinement.h"
#include "vmmanager/layers/builder_protocol.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/layers/disk_space.h"
#include "vmmanager/layers/image_builder.h"

namespace ferry::tools {
namespace {

absl::Status WriteResult(const std::string& text) {
  if (text.size() > layers::kMaxBuilderResult) {
    return absl::ResourceExhaustedError("the image's configuration is too large");
  }
  const UniqueFd file(::openat(layers::kBuilderOutput, layers::kBuilderResult,
                               O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.valid() && WriteAll(file.get(), text)) return absl::OkStatus();
  return layers::WriteError(errno, "cannot write the result");
}

// Whoever listens may have gone.
void TellProgress(size_t done, size_t of) {
  static_cast<void>(WriteAll(layers::kBuilderProgress, absl::StrCat(done, " ", of, "\n")));
}

// Nobody would take what we make, and the next daemon sweeps it. False if it has ended already:
// then nobody can read our progress.
bool EndWithTheDaemon() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd progress{layers::kBuilderProgress, 0, 0};
  return ::poll(&progress, 1, 0) == 0;
}

// What libraries read of the host when they are first used.
void WarmUp() {
  // Names in archives are UTF-8, whatever the daemon's language is.
  std::setlocale(LC_ALL, "C.UTF-8");
  layers::Sha256().Finish();
}

absl::Status Build(char** arguments) {
  ASSIGN_OR_RETURN(const layers::ArchiveKind kind, layers::ParseArchiveKind(arguments[0]));
  layers::Limits limits;
  if (!absl::SimpleAtoi(arguments[1], &limits.bytes) ||
      !absl::SimpleAtoi(arguments[2], &limits.entries) ||
      !absl::SimpleAtoi(arguments[3], &limits.reserve)) {
    return absl::InternalError("the limits are no numbers");
  }
  WarmUp();
  RETURN_IF_ERROR(Confine(limits));
  ASSIGN_OR_RETURN(const layers::BuiltImage image,
                   layers::BuildImage(layers::kBuilderSource, kind, limits, layers::kBuilderOutput,
                                      &TellProgress));
  return WriteResult(layers::ToJsonText(image));
}

int ExitCodeFor(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return layers::kBuilderRefused;
  if (absl::IsResourceExhausted(status)) return layers::kBuilderTooMuch;
  if (absl::IsUnavailable(status)) return layers::kBuilderDiskFull;
  return layers::kBuilderFailed;
}

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr,
                 "Usage: ferry-layers KIND MAX-BYTES MAX-FILES RESERVE  (ferryd starts it)\n");
    return layers::kBuilderFailed;
  }
  std::signal(SIGPIPE, SIG_IGN);
  if (!EndWithTheDaemon()) return layers::kBuilderFailed;
  absl::Status status;
  try {
    status = Build(argv + 1);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("it takes too much memory");
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return ExitCodeFor(status);
}

}  // namespace
}  // namespace ferry::tools

#ifdef __SANITIZE_ADDRESS__
// Leaks are looked for by another process, which is one of the things that it has given up.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }  // NOLINT
#endif

int main(int argc, char** argv) { return ferry::tools::Main(argc, argv); }
