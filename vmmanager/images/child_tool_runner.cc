#include "vmmanager/images/child_tool_runner.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_process.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr size_t kLastWords = 2048;
constexpr size_t kMaxProgressLine = 256;
constexpr int kNiceness = 10;
constexpr milliseconds kFindTime{60'000};
constexpr milliseconds kReapTime{10'000};
constexpr int kOwnProgram = 9;  // in a program of Ferry's own: itself

struct Pipe {
  UniqueFd ours;
  UniqueFd theirs;
};

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Gives what comes out of a pipe to `take`, until its other end is closed everywhere.
Task<void> Drain(Executor executor, UniqueFd pipe, std::function<void(absl::string_view)> take) {
  asio::posix::stream_descriptor reader(executor, pipe.Release());
  std::array<char, 4096> buffer{};
  while (true) {
    boost::system::error_code error;
    const size_t count = co_await reader.async_read_some(
        asio::buffer(buffer), asio::redirect_error(asio::use_awaitable, error));
    if (count > 0) take(absl::string_view(buffer.data(), count));
    if (error) co_return;
  }
}

// The same, where somebody wants to be told.
Task<void> Tell(Executor executor, Pipe pipe, std::function<void(absl::string_view)> take) {
  if (take) co_await Drain(executor, std::move(pipe.ours), std::move(take));
}

// Cuts what comes into lines; what is longer than a line can be is left out.
class LineCutter {
 public:
  explicit LineCutter(std::function<void(absl::string_view)> take) : take_(std::move(take)) {}

  void Add(absl::string_view bytes) {
    for (const char c : bytes) {
      if (c == '\n') {
        take_(line_);
        line_.clear();
      } else if (line_.size() < kMaxProgressLine) {
        line_ += c;
      }
    }
  }

 private:
  const std::function<void(absl::string_view)> take_;
  std::string line_;
};

// A program that was started. Ended when nobody waits for it any more.
struct Running {
  std::unique_ptr<QemuProcess> process;
  std::shared_ptr<void> holds;
};

Task<void> Reap(std::shared_ptr<Running> running) { co_await running->process->WaitEnd(); }

class KillOnDrop {
 public:
  KillOnDrop(Executor executor, std::shared_ptr<Running> running)
      : executor_(std::move(executor)), running_(std::move(running)) {}
  ~KillOnDrop() {
    if (!running_) return;
    running_->process->Kill();
    Spawn(executor_, Reap(std::move(running_)));
  }
  KillOnDrop(const KillOnDrop&) = delete;
  KillOnDrop& operator=(const KillOnDrop&) = delete;
  void Ended() { running_.reset(); }

 private:
  const Executor executor_;
  std::shared_ptr<Running> running_;
};

absl::Status MissingTool(const ToolCommand& command) {
  if (command.ferrys_own) {
    return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                                absl::StrCat(command.program, " is missing; it belongs to Ferry"),
                                "tool_missing", "Install Ferry again.");
  }
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat(ToolName(command), " is not installed on this host"),
                              "tool_missing",
                              absl::StrCat("Install it: apt-get install ", command.package));
}

// What it says goes to `words`, of which the end is kept; returns when it has ended.
Task<absl::Status> Follow(Executor executor, std::shared_ptr<Running> running, Pipe words_pipe,
                          Pipe progress_pipe, std::function<void(absl::string_view)> progress,
                          Pipe output_pipe, std::function<void(absl::string_view)> output,
                          std::string* words, ProcessEnd* end) {
  using asio::experimental::awaitable_operators::operator&&;
  std::function<void(absl::string_view)> keep = [words](absl::string_view bytes) {
    words->append(bytes.data(), bytes.size());
    if (words->size() > 2 * kLastWords) words->erase(0, words->size() - kLastWords);
  };
  Task<void> kept = Drain(executor, std::move(words_pipe.ours), std::move(keep));
  Task<void> printed = Tell(executor, std::move(output_pipe), std::move(output));
  if (progress) {
    auto lines = std::make_shared<LineCutter>(std::move(progress));
    std::function<void(absl::string_view)> cut = [lines](absl::string_view bytes) {
      lines->Add(bytes);
    };
    Task<void> told = Drain(executor, std::move(progress_pipe.ours), std::move(cut));
    co_await (std::move(kept) && std::move(printed) && std::move(told));
  } else {
    co_await (std::move(kept) && std::move(printed));
  }
  *end = co_await running->process->WaitEnd();
  co_return absl::OkStatus();
}

}  // namespace

// The program's file, which it can be run by.
Task<absl::StatusOr<UniqueFd>> ChildToolRunner::FindProgram(ToolCommand command) {
  auto program = std::make_shared<UniqueFd>();
  std::function<absl::Status()> find = [path = command.program, program] {
    if (::access(path.c_str(), X_OK) == 0) {
      program->Reset(::open(path.c_str(), O_PATH | O_CLOEXEC));
    }
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kFindTime, "the programs' disk", std::move(find)));
  if (!program->valid()) co_return MissingTool(command);
  co_return std::move(*program);
}

Task<absl::StatusOr<ToolEnd>> ChildToolRunner::Run(ToolCommand command) {
  const std::string name = ToolName(command);
  CO_ASSIGN_OR_RETURN(const std::optional<ProcessUser> user, user_);
  CO_ASSIGN_OR_RETURN(const UniqueFd program, co_await FindProgram(command));
  CO_ASSIGN_OR_RETURN(Pipe words_pipe, MakePipe());
  Pipe progress_pipe;
  LaunchSpec spec;
  spec.argv = command.arguments;
  spec.argv.insert(spec.argv.begin(), command.program);
  spec.descriptors = command.descriptors;
  spec.descriptors[STDOUT_FILENO] = words_pipe.theirs.get();
  spec.descriptors[STDERR_FILENO] = words_pipe.theirs.get();
  Pipe output_pipe;
  if (command.output) {
    CO_ASSIGN_OR_RETURN(output_pipe, MakePipe());
    spec.descriptors[STDOUT_FILENO] = output_pipe.theirs.get();
  }
  if (command.progress) {
    CO_ASSIGN_OR_RETURN(progress_pipe, MakePipe());
    spec.descriptors[kToolProgress] = progress_pipe.theirs.get();
  }
  if (command.ferrys_own) {
    spec.descriptors[kOwnProgram] = program.get();
    spec.argv.front() = absl::StrCat("/proc/self/fd/", kOwnProgram);
  }
  spec.user = user;
  spec.niceness = kNiceness;
  auto running = std::make_shared<Running>();
  CO_ASSIGN_OR_RETURN(running->process, QemuProcess::Launch(executor_, spec));
  running->holds = std::move(command.holds);
  KillOnDrop kill(executor_, running);
  words_pipe.theirs.Reset();
  progress_pipe.theirs.Reset();
  output_pipe.theirs.Reset();

  // Both outlive the task that fills them, for it ends before WithDeadline returns.
  std::string words;
  ProcessEnd end;
  Task<absl::Status> followed = Follow(
      executor_, running, std::move(words_pipe), std::move(progress_pipe),
      std::move(command.progress), std::move(output_pipe), std::move(command.output), &words, &end);
  const absl::Status ended = co_await WithDeadline(command.deadline, "a tool", std::move(followed));
  if (absl::IsDeadlineExceeded(ended)) {
    // What it works on is whole again only when it is gone.
    running->process->Kill();
    Task<void> gone = Reap(running);
    const absl::Status reaped = co_await WithDeadline(kReapTime, "a tool's end", std::move(gone));
    if (reaped.ok()) kill.Ended();
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kDeadlineExceeded,
        absl::StrCat(name, " did not end within ", command.deadline.count() / 1000,
                     " s and was ended"),
        "tool_timed_out");
  }
  if (!ended.ok()) co_return ended;
  kill.Ended();
  if (words.size() > kLastWords) words.erase(0, words.size() - kLastWords);
  ToolEnd result;
  result.last_words = std::string(absl::StripAsciiWhitespace(words));
  result.exit_code = end.exit_code;
  if (!end.known || end.signal != 0) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kInternal,
        absl::StrCat(name, " ", end.ToString(), result.last_words.empty() ? "" : ": ",
                     result.last_words),
        "tool_failed");
  }
  co_return result;
}

absl::StatusOr<std::optional<ProcessUser>> UserForTools(const std::string& name) {
  if (::geteuid() != 0) return std::nullopt;
  const absl::StatusOr<ProcessUser> found = FindProcessUser(name);
  if (found.ok()) return *found;
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("nothing that others wrote is read as root: ", found.status().message()),
      "no_tools_user", absl::StrCat("Make the user ", name, " and start ferryd again."));
}

}  // namespace ferry::vm
