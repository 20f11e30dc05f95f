// ferry-layers: takes an image's archive apart for ferryd, which starts it without rights. It has
// only the descriptors that it was given, so an archive that got the better of it would have no
// more.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/layers/image_builder.h"

namespace ferry::tools {
namespace {

// Known to vmmanager/images/image_importer.cc.
constexpr int kSource = 3;
constexpr int kOutput = 4;
constexpr int kProgress = 5;
constexpr char kResult[] = "result.json";
constexpr int kExitFailed = 1;
constexpr int kExitRefused = 2;
constexpr int kExitTooMuch = 3;

constexpr rlim_t kMemory = rlim_t{4} << 30;

absl::Status WriteResult(const std::string& text) {
  const UniqueFd file(::openat(kOutput, kResult, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid() ||
      ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::ErrnoToStatus(errno, "cannot write the result");
  }
  return absl::OkStatus();
}

void TellProgress(size_t done, size_t of) {
  const std::string line = absl::StrCat(done, " ", of, "\n");
  const ssize_t ignored = ::write(kProgress, line.data(), line.size());
  static_cast<void>(ignored);
}

absl::Status Build(const std::string& kind_name, const std::string& bytes,
                   const std::string& entries) {
  layers::Limits limits;
  ASSIGN_OR_RETURN(const layers::ArchiveKind kind, layers::ParseArchiveKind(kind_name));
  if (!absl::SimpleAtoi(bytes, &limits.bytes) || !absl::SimpleAtoi(entries, &limits.entries)) {
    return absl::InvalidArgumentError("the limits are no numbers");
  }
  ASSIGN_OR_RETURN(const layers::BuiltImage image,
                   layers::BuildImage(kSource, kind, limits, kOutput, &TellProgress));
  return WriteResult(layers::ToJsonText(image));
}

int ExitCodeFor(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return kExitRefused;
  if (absl::IsResourceExhausted(status)) return kExitTooMuch;
  return kExitFailed;
}

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "Usage: ferry-layers KIND MAX-BYTES MAX-FILES  (ferryd starts it)\n");
    return kExitFailed;
  }
  std::signal(SIGPIPE, SIG_IGN);
  // Nobody would take what we make, and the next daemon sweeps it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit memory{kMemory, kMemory};
  const rlimit nothing{0, 0};
  ::setrlimit(RLIMIT_AS, &memory);
  ::setrlimit(RLIMIT_CORE, &nothing);
  ::setrlimit(RLIMIT_NPROC, &nothing);
  // Names in archives are UTF-8, whatever the daemon's language is.
  std::setlocale(LC_ALL, "C.UTF-8");
  absl::Status status;
  try {
    status = Build(argv[1], argv[2], argv[3]);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("it takes too much memory");
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return ExitCodeFor(status);
}

}  // namespace
}  // namespace ferry::tools

int main(int argc, char** argv) { return ferry::tools::Main(argc, argv); }
