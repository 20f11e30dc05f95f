// What runs inside test VMs: small jobs with output that shows every lost, repeated or torn byte.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "records.h"

namespace {

constexpr char kHelp[] =
    R"(usage: ferry-workload COMMAND [OPTION VALUE]...

  tick [--interval-us N]        prints "tick NUMBER NANOSECONDS" (from 0, rising by one; monotonic
                                clock) every N microseconds (default 500), and answers each line of
                                its input with "echo LINE"; lines are never torn. Ends with its
                                input (exit code 0), unless that is /dev/null
  cat [--rate BYTES_PER_S] [--in-flight BYTES]
                                copies input to output, at most at this rate; reads up to BYTES
                                (default 65536) ahead of what it has written
  exit CODE [--after-ms N]      exits with CODE after N milliseconds
  exit-on-line CODE             exits with CODE when it has read a line
  dirty --mb N [--rate MBPS]    writes to N MiB of memory over and over, and prints "dirty ROUND"
  random --bytes N [--seed S]   prints N pseudo-random bytes that S determines
  flood [--lines N]             prints "flood NUMBER" lines at full speed
  hold PID [--ms N]             stops a process for N milliseconds, even process 1; prints "holding"
                                before and "released" after
  clock                         answers each line of its input with "clock REALTIME MONOTONIC LINE",
                                both in nanoseconds
  keys [--raw 1]                prints "size ROWS COLUMNS MODE" at the start and whenever the size of
                                its terminal changes, "read HEX" for what it reads, "signal NUMBER"
                                for SIGHUP, SIGINT and SIGQUIT; MODE is its terminal's, lines or raw.
                                A 'q' makes it exit with 7, the end of its input with 5
  tty                           prints "tty YES|NO ROWS COLUMNS", and again when the size changes
  write-records [--pause-ms N] DISK...
                                writes numbered records to each disk in turn, N milliseconds (default
                                100) apart, and remembers in /tmp how far it is
  read-records --most N DISK... prints the first N of each disk, each disk's with "over" behind them
  await-record NUMBER           exits with 0 once that record is on all disks

Wrong usage exits with 2.
)";

constexpr uint64_t kSecond = 1'000'000'000;

struct Arguments {
  std::vector<std::string> plain;
  std::map<std::string, uint64_t> options;

  uint64_t Get(const std::string& name, uint64_t otherwise) const {
    const auto it = options.find(name);
    return it == options.end() ? otherwise : it->second;
  }
};

[[noreturn]] void Usage(const std::string& why) {
  fprintf(stderr, "ferry-workload: %s\n%s", why.c_str(), kHelp);
  exit(2);
}

uint64_t Number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    Usage("'" + std::string(text) + "' is not a whole number");
  }
  return value;
}

constexpr size_t kAnyNumber = SIZE_MAX;

Arguments Parse(int argc, char** argv, const std::vector<std::string>& known, size_t plain) {
  Arguments arguments;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      arguments.plain.push_back(word);
      continue;
    }
    if (std::find(known.begin(), known.end(), word) == known.end()) Usage("unknown option " + word);
    if (++i == argc) Usage(word + " needs a value");
    arguments.options[word] = Number(argv[i]);
  }
  if (plain != kAnyNumber && arguments.plain.size() != plain) Usage("wrong number of arguments");
  return arguments;
}

uint64_t Now() {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_nsec);
}

// Exits quietly when nobody reads any more.
void Write(std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = write(STDOUT_FILENO, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) exit(1);
    data.remove_prefix(static_cast<size_t>(count));
  }
}

// Waits for input, at most until `deadline`. True if there is some (or its end).
bool AwaitInput(uint64_t deadline) {
  const uint64_t now = Now();
  const uint64_t left = deadline > now ? deadline - now : 0;
  const struct timespec limit = {static_cast<time_t>(left / kSecond),
                                 static_cast<long>(left % kSecond)};
  struct pollfd input = {STDIN_FILENO, POLLIN, 0};
  return ppoll(&input, 1, &limit, nullptr) > 0;
}

void SleepUntil(uint64_t deadline) {
  const struct timespec time = {static_cast<time_t>(deadline / kSecond),
                                static_cast<long>(deadline % kSecond)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR) {
  }
}

// False if there is none to come: /dev/null.
bool HasInput() {
  struct stat info;
  return fstat(STDIN_FILENO, &info) == 0 && (!S_ISCHR(info.st_mode) || isatty(STDIN_FILENO) != 0);
}

int Tick(const Arguments& arguments) {
  const uint64_t interval = arguments.Get("--interval-us", 500) * 1000;
  bool input_open = HasInput();
  std::string partial;
  uint64_t next = Now();
  for (uint64_t number = 0;; ++number) {
    Write("tick " + std::to_string(number) + " " + std::to_string(Now()) + "\n");
    // After a pause the ticks go on at their pace; they do not catch up.
    next = std::max(next + interval, Now());
    while (Now() < next) {
      if (!input_open) {
        SleepUntil(next);
        continue;
      }
      if (!AwaitInput(next)) continue;
      char buffer[65536];
      const ssize_t count = read(STDIN_FILENO, buffer, sizeof(buffer));
      if (count <= 0) return 0;
      partial.append(buffer, static_cast<size_t>(count));
      for (size_t end; (end = partial.find('\n')) != std::string::npos;) {
        Write("echo " + partial.substr(0, end + 1));
        partial.erase(0, end + 1);
      }
    }
  }
}

int Cat(const Arguments& arguments) {
  const uint64_t rate = arguments.Get("--rate", 0);
  const size_t ahead = std::max<size_t>(1, arguments.Get("--in-flight", 65536));
  std::string buffer(ahead, '\0');
  uint64_t next = Now();
  while (true) {
    const ssize_t count = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? 1 : 0;
    std::string_view rest(buffer.data(), static_cast<size_t>(count));
    // In small pieces, so that the pace is even.
    const size_t piece = rate == 0 ? rest.size() : std::max<size_t>(1, rate / 100);
    while (!rest.empty()) {
      const std::string_view part = rest.substr(0, piece);
      Write(part);
      rest.remove_prefix(part.size());
      if (rate == 0) continue;
      next = std::max(next, Now()) + part.size() * kSecond / rate;
      SleepUntil(next);
    }
  }
}

int Exit(const Arguments& arguments) {
  SleepUntil(Now() + arguments.Get("--after-ms", 0) * 1'000'000);
  return static_cast<int>(Number(arguments.plain[0]) & 0xFF);
}

int ExitOnLine(const Arguments& arguments) {
  const int code = static_cast<int>(Number(arguments.plain[0]) & 0xFF);
  char byte = 0;
  while (byte != '\n') {
    if (read(STDIN_FILENO, &byte, 1) != 1) return 1;
  }
  return code;
}

int Dirty(const Arguments& arguments) {
  constexpr size_t kPage = 4096;
  const size_t megabytes = arguments.Get("--mb", 0);
  const uint64_t rate = arguments.Get("--rate", 0);
  if (megabytes == 0) Usage("dirty needs --mb");
  std::vector<char> memory(megabytes << 20);
  uint64_t next = Now();
  for (uint64_t round = 0;; ++round) {
    for (size_t offset = 0; offset < memory.size(); offset += kPage) {
      const_cast<volatile char&>(memory[offset]) = static_cast<char>(round + offset / kPage);
      if (rate == 0 || (offset & 0xFFFFF) != 0) continue;
      next = std::max(next, Now()) + kSecond / rate;
      SleepUntil(next);
    }
    Write("dirty " + std::to_string(round) + "\n");
  }
}

int Random(const Arguments& arguments) {
  uint64_t left = arguments.Get("--bytes", 0);
  uint64_t state = arguments.Get("--seed", 1);
  std::string buffer;
  while (left > 0) {
    buffer.clear();
    while (buffer.size() < 65536) {
      // splitmix64
      uint64_t value = state += 0x9E3779B97F4A7C15;
      value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
      value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
      value ^= value >> 31;
      for (int shift = 0; shift < 64; shift += 8)
        buffer.push_back(static_cast<char>(value >> shift));
    }
    const size_t count = std::min<uint64_t>(left, buffer.size());
    Write(std::string_view(buffer).substr(0, count));
    left -= count;
  }
  return 0;
}

int Flood(const Arguments& arguments) {
  const uint64_t lines = arguments.Get("--lines", UINT64_MAX);
  std::string buffer;
  for (uint64_t number = 0; number < lines; ++number) {
    buffer += "flood " + std::to_string(number) + "\n";
    if (buffer.size() < 32768) continue;
    Write(buffer);
    buffer.clear();
  }
  Write(buffer);
  return 0;
}

// By tracing it: process 1 takes no SIGSTOP.
int Hold(const Arguments& arguments) {
  const pid_t pid = static_cast<pid_t>(Number(arguments.plain[0]));
  int status = 0;
  if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0 ||
      ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0 ||
      waitpid(pid, &status, __WALL) != pid) {
    return 1;
  }
  Write("holding\n");
  SleepUntil(Now() + arguments.Get("--ms", 1000) * 1'000'000);
  ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  Write("released\n");
  return 0;
}

volatile sig_atomic_t pending_signals = 0;  // a bit for each number

void NoteSignal(int number) { pending_signals = pending_signals | (1 << number); }

void PrintSize() {
  struct winsize size = {};
  struct termios mode = {};
  ioctl(STDIN_FILENO, TIOCGWINSZ, &size);
  tcgetattr(STDIN_FILENO, &mode);
  Write("size " + std::to_string(size.ws_row) + " " + std::to_string(size.ws_col) +
        ((mode.c_lflag & ICANON) != 0 ? " lines\n" : " raw\n"));
}

void PrintSignals() {
  const int pending = pending_signals;
  pending_signals = 0;
  for (const int number : {SIGHUP, SIGINT, SIGQUIT}) {
    if ((pending & (1 << number)) != 0) Write("signal " + std::to_string(number) + "\n");
  }
  if ((pending & (1 << SIGWINCH)) != 0) PrintSize();
}

int Keys(const Arguments& arguments) {
  if (arguments.Get("--raw", 0) != 0) {
    struct termios mode = {};
    tcgetattr(STDIN_FILENO, &mode);
    cfmakeraw(&mode);
    tcsetattr(STDIN_FILENO, TCSANOW, &mode);
  }
  // Delivered only while waiting, so that none is missed between a look and the wait.
  sigset_t noted;
  sigset_t while_waiting;
  sigemptyset(&noted);
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGWINCH}) {
    sigaddset(&noted, number);
    signal(number, NoteSignal);
  }
  sigprocmask(SIG_BLOCK, &noted, &while_waiting);
  PrintSize();
  while (true) {
    PrintSignals();
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (ppoll(&input, 1, nullptr, &while_waiting) <= 0) continue;
    unsigned char buffer[4096];
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count <= 0) return 5;
    std::string line = "read ";
    for (ssize_t i = 0; i < count; ++i) {
      constexpr char kDigits[] = "0123456789abcdef";
      line += kDigits[buffer[i] >> 4];
      line += kDigits[buffer[i] & 15];
    }
    Write(line + "\n");
    if (std::find(buffer, buffer + count, 'q') != buffer + count) return 7;
  }
}

uint64_t ReadClock(clockid_t clock) {
  struct timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecond + static_cast<uint64_t>(now.tv_nsec);
}

int Clock() {
  std::string line;
  char next = 0;
  while (read(STDIN_FILENO, &next, 1) == 1) {
    line += next;
    if (next != '\n') continue;
    Write("clock " + std::to_string(ReadClock(CLOCK_REALTIME)) + " " +
          std::to_string(ReadClock(CLOCK_MONOTONIC)) + " " + line);
    line.clear();
  }
  return 0;
}

int Tty() {
  sigset_t changes;
  sigemptyset(&changes);
  sigaddset(&changes, SIGWINCH);
  sigprocmask(SIG_BLOCK, &changes, nullptr);
  while (true) {
    struct winsize size = {};
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    Write(std::string("tty ") + (isatty(STDIN_FILENO) ? "YES" : "NO") + " " +
          std::to_string(size.ws_row) + " " + std::to_string(size.ws_col) + "\n");
    if (!isatty(STDIN_FILENO)) return 0;
    int number = 0;
    sigwait(&changes, &number);
  }
}

int WriteRecords(const Arguments& arguments) {
  const std::chrono::milliseconds pause(arguments.Get("--pause-ms", 100));
  return ferry::workload::WriteRecords(arguments.plain, pause);
}

int ReadRecords(const Arguments& arguments) {
  return ferry::workload::ReadRecords(arguments.plain, arguments.Get("--most", 0));
}

int AwaitRecord(const Arguments& arguments) {
  return ferry::workload::AwaitRecord(Number(arguments.plain[0]));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "--help") {
    fputs(kHelp, stdout);
    return 0;
  }
  if (command == "tick") return Tick(Parse(argc, argv, {"--interval-us"}, 0));
  if (command == "cat") return Cat(Parse(argc, argv, {"--rate", "--in-flight"}, 0));
  if (command == "exit") return Exit(Parse(argc, argv, {"--after-ms"}, 1));
  if (command == "exit-on-line") return ExitOnLine(Parse(argc, argv, {}, 1));
  if (command == "dirty") return Dirty(Parse(argc, argv, {"--mb", "--rate"}, 0));
  if (command == "random") return Random(Parse(argc, argv, {"--bytes", "--seed"}, 0));
  if (command == "flood") return Flood(Parse(argc, argv, {"--lines"}, 0));
  if (command == "hold") return Hold(Parse(argc, argv, {"--ms"}, 1));
  if (command == "keys") return Keys(Parse(argc, argv, {"--raw"}, 0));
  if (command == "clock") {
    Parse(argc, argv, {}, 0);
    return Clock();
  }
  if (command == "tty") {
    Parse(argc, argv, {}, 0);
    return Tty();
  }
  if (command == "write-records")
    return WriteRecords(Parse(argc, argv, {"--pause-ms"}, kAnyNumber));
  if (command == "read-records") return ReadRecords(Parse(argc, argv, {"--most"}, kAnyNumber));
  if (command == "await-record") return AwaitRecord(Parse(argc, argv, {}, 1));
  Usage(command.empty() ? "no command" : "unknown command '" + command + "'");
}
