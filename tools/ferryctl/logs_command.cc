#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/attach_session.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/log_positions.h"

// `ferryctl logs`.
namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;

struct LogsArguments {
  std::vector<std::string> words;  // a container, or a VM and a process in it
  std::string vm;
  bool follow = false;
  LogPositions since;
  // Whoever did not say from where on is content with what there is, and then misses nothing more.
  bool wants_all = false;

  // A container has no number here.
  std::string container;
  uint32_t process = 0;

  std::string what() const {
    return container.empty() ? absl::StrCat("process ", process, " of VM ", vm)
                             : absl::StrCat("container ", words.front());
  }
};

const char* NameOf(v1::StdioStream stream) {
  return stream == v1::STDIO_STREAM_STDERR ? "stderr" : "stdout";
}

// An output's bytes as they are, or a line of JSON with where they are.
class Printer {
 public:
  explicit Printer(OutputFormat format) : json_(format == OutputFormat::kJson) {}

  bool json() const { return json_; }
  static std::string ToLine(v1::StdioStream stream, uint64_t offset, std::string_view data) {
    v1::AttachResponse::Output output;
    output.set_stream(stream);
    output.set_offset(offset);
    output.set_data(std::string(data));
    return ToJson(output, false);
  }
  // False if nobody reads it any more.
  bool Print(const v1::ReadOutputResponse::Part& part) const {
    const std::string_view data = part.data();
    const uint64_t mark = part.went_back_at();
    // Also at the end of all there is: what follows comes another way.
    const uint64_t behind = part.offset() + data.size();
    const bool marked = mark != 0 && part.offset() <= mark && (mark < behind || mark == part.end());
    if (!marked) return Write(part.stream(), part.offset(), data);
    const size_t before = mark - part.offset();
    if (!Write(part.stream(), part.offset(), data.substr(0, before))) return false;
    std::fprintf(stderr,
                 "ferryctl: here, at byte %llu of %s, its VM went back to an earlier state\n",
                 static_cast<unsigned long long>(mark), NameOf(part.stream()));
    return Write(part.stream(), mark, data.substr(before));
  }

 private:
  bool Write(v1::StdioStream stream, uint64_t offset, std::string_view data) const {
    if (data.empty()) return true;
    std::FILE* to = !json_ && stream == v1::STDIO_STREAM_STDERR ? stderr : stdout;
    const std::string text = json_ ? ToLine(stream, offset, data) : std::string(data);
    return std::fwrite(text.data(), 1, text.size(), to) == text.size() && std::fflush(to) == 0;
  }

  const bool json_;
};

Task<absl::StatusOr<v1::ReadOutputResponse>> Read(Client* client,
                                                  std::shared_ptr<LogsArguments> arguments) {
  if (!arguments->container.empty()) {
    v1::ReadContainerOutputRequest request;
    *request.mutable_ref() = RefTo(arguments->container, arguments->vm);
    request.set_stdout_since(arguments->since.stdout_next());
    request.set_stderr_since(arguments->since.stderr_next());
    co_return co_await rpc::CallUnary(client->containers->async(),
                                      &ContainerAsync::ReadContainerOutput, std::move(request),
                                      kCallTimeout);
  }
  v1::ReadOutputRequest request;
  request.set_vm(arguments->vm);
  request.set_process_id(arguments->process);
  request.set_stdout_since(arguments->since.stdout_next());
  request.set_stderr_since(arguments->since.stderr_next());
  co_return co_await rpc::CallUnary(client->guests->async(), &GuestAsync::ReadOutput,
                                    std::move(request), kCallTimeout);
}

// Prints all that is kept. False: nobody reads it any more.
Task<absl::StatusOr<bool>> PrintKept(Client* client, std::shared_ptr<LogsArguments> arguments,
                                     const Printer* printer) {
  do {
    CO_ASSIGN_OR_RETURN(const v1::ReadOutputResponse output, co_await Read(client, arguments));
    for (const v1::ReadOutputResponse::Part& part : output.parts()) {
      if (arguments->since.GoesBack(part)) continue;
      const uint64_t missing = arguments->since.Take(part);
      if (missing != 0 && arguments->wants_all) {
        std::fprintf(stderr, "ferryctl: %llu bytes of %s before byte %llu are not kept any more\n",
                     static_cast<unsigned long long>(missing), NameOf(part.stream()),
                     static_cast<unsigned long long>(part.offset()));
      }
      if (!printer->Print(part)) co_return false;
    }
    arguments->wants_all = true;
  } while (!arguments->since.caught_up());
  co_return true;
}

// Where the process is that is to be watched; 0 if the container does not run.
Task<absl::StatusOr<uint32_t>> FindProcess(Client* client,
                                           std::shared_ptr<LogsArguments> arguments) {
  if (arguments->container.empty()) co_return arguments->process;
  v1::ContainerRef ref = RefTo(arguments->container, arguments->vm);
  CO_ASSIGN_OR_RETURN(const v1::Container container,
                      co_await FindContainer(client, std::move(ref)));
  // Wherever it goes.
  ref = RefAnywhereTo(container);
  arguments->vm = ref.vm();
  arguments->container = ref.container();
  if (container.state() == v1::CONTAINER_STATE_CREATED) {
    std::fprintf(stderr,
                 "ferryctl: container %s has not been started; there is nothing to follow\n",
                 container.spec().name().c_str());
    co_return 0;
  }
  co_return container.process_id();
}

std::string Reading(const LogsArguments& arguments) {
  return absl::StrCat("reading the output of ", arguments.what());
}

// What there is by now, where nothing more can follow.
Task<int> PrintRest(Client* client, std::shared_ptr<LogsArguments> arguments,
                    const Printer* printer) {
  const absl::StatusOr<bool> printed = co_await PrintKept(client, arguments, printer);
  if (!printed.ok()) co_return Fail(*client, Reading(*arguments), printed.status());
  co_return kOk;
}

// A container whose VM has ended has no process any more, and its host keeps what it printed. False
// if that is not all of it, or somebody else's to say.
Task<bool> PrintRestAt(Client* client, std::string address,
                       std::shared_ptr<LogsArguments> arguments, const Printer* printer) {
  if (arguments->container.empty()) co_return false;
  GlobalOptions options = client->options;
  options.host = std::move(address);
  Client there(client->executor, options);
  if (!there.Connect().ok()) co_return false;
  const absl::StatusOr<bool> printed = co_await PrintKept(&there, arguments, printer);
  co_return printed.ok() && (!*printed || arguments->since.ended());
}

Task<int> Follow(Client* client, std::shared_ptr<LogsArguments> arguments, const Printer* printer) {
  const std::string doing = absl::StrCat("following ", arguments->what());
  const absl::StatusOr<uint32_t> process = co_await FindProcess(client, arguments);
  if (!process.ok()) co_return Fail(*client, doing, process.status());
  if (*process == 0) co_return co_await PrintRest(client, arguments, printer);
  AttachConfig config;
  config.address = client->options.host;
  config.tls = client->options.tls;
  config.vm = arguments->vm;
  config.process_id = *process;
  config.started = true;  // some of what it printed was just read
  config.watch = arguments->since.Rest();
  if (printer->json()) config.render = &Printer::ToLine;
  config.handle_signals = true;
  AttachSession session(client->executor, config);
  const AttachOutcome outcome = co_await session.Run();
  if (outcome.exit_status || outcome.output_closed) co_return kOk;
  if (outcome.signal != 0) co_return 128 + outcome.signal;
  arguments->since.GoOnFrom(session.written());
  if (co_await PrintRestAt(client, outcome.address, arguments, printer)) co_return kOk;
  std::fputs(ErrorText(doing, outcome.error, outcome.address).c_str(), stderr);
  co_return ExitCodeFor(outcome.error);
}

Task<int> Logs(Client* client, std::shared_ptr<LogsArguments> arguments) {
  const Printer printer(client->options.format());
  const absl::StatusOr<bool> printed = co_await PrintKept(client, arguments, &printer);
  if (!printed.ok()) co_return Fail(*client, Reading(*arguments), printed.status());
  if (!*printed || !arguments->follow || arguments->since.ended()) co_return kOk;
  co_return co_await Follow(client, arguments, &printer);
}

void CheckWords(LogsArguments* arguments) {
  if (arguments->words.size() == 1) {
    arguments->container = arguments->words.front();
    return;
  }
  if (!arguments->vm.empty()) {
    throw CLI::ValidationError("--vm", "is for a container; a process is named by VM PROCESS");
  }
  arguments->vm = arguments->words.front();
  if (!absl::SimpleAtoi(arguments->words.back(), &arguments->process)) {
    throw CLI::ValidationError(
        "process", absl::StrCat("\"", arguments->words.back(),
                                "\" is no process id; see ferryctl ps ", arguments->vm));
  }
}

}  // namespace

void AddLogsCommand(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<LogsArguments>();
  auto since = std::make_shared<std::string>();
  CLI::App* sub = app->add_subcommand(
      "logs", "Print what a detached container, or process, has written, and is writing");
  sub->add_flag("-f,--follow", arguments->follow, "Go on with what it writes from now on");
  sub->add_option("--since", *since, "OFFSET[,OFFSET]: the first byte, of stdout and of stderr");
  sub->add_option("--vm", arguments->vm, "The VM that the container is in");
  sub->add_option("what", arguments->words, "CONTAINER, or VM PROCESS")->required()->expected(1, 2);
  sub->callback([=] {
    CheckWords(arguments.get());
    if (!since->empty()) {
      const absl::StatusOr<LogPositions> parsed = LogPositions::Parse(*since);
      if (!parsed.ok()) {
        throw CLI::ValidationError("--since", std::string(parsed.status().message()));
      }
      arguments->since = *parsed;
      arguments->wants_all = true;
    }
    command->action = [=](Client* client) { return Logs(client, arguments); };
  });
}

}  // namespace ferry::ctl
