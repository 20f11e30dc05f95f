#include "tools/ferry-guest/crash_report.h"

#include <signal.h>
#include <sys/uio.h>
#include <termios.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

// Nothing here allocates, locks or throws: whatever it could rely on may be what is broken.
namespace ferry {
namespace {

constexpr size_t kStackLines = 12;
using Words = std::array<uint64_t, 8>;  // as many as a line has room for

struct Register {
  const char* name;
  int index;  // in the saved context
};
constexpr Register kRegisters[] = {
    {"rip", REG_RIP}, {"rsp", REG_RSP}, {"rbp", REG_RBP}, {"rax", REG_RAX}, {"rbx", REG_RBX},
    {"rcx", REG_RCX}, {"rdx", REG_RDX}, {"rsi", REG_RSI}, {"rdi", REG_RDI}, {"r8", REG_R8},
    {"r9", REG_R9},   {"r10", REG_R10}, {"r11", REG_R11}, {"r12", REG_R12}, {"r13", REG_R13},
    {"r14", REG_R14}, {"r15", REG_R15}};

// A line of the report.
class Line {
 public:
  Line& Text(std::string_view text) {
    for (const char c : text) Put(c);
    return *this;
  }
  Line& Hex(const Words& words) {
    for (const uint64_t word : words) Text(" ").Hex(word);
    return *this;
  }
  Line& Hex(uint64_t value) {
    constexpr char kDigits[] = "0123456789abcdef";
    int shift = 60;
    while (shift > 0 && (value >> shift) == 0) shift -= 4;
    for (; shift >= 0; shift -= 4) Put(kDigits[(value >> shift) & 15]);
    return *this;
  }
  void Write() {
    Put('\n');
    const ssize_t ignored = ::write(STDERR_FILENO, text_.data(), size_);
    (void)ignored;
    size_ = 0;
  }

 private:
  void Put(char c) {
    if (size_ < text_.size()) text_[size_++] = c;
  }

  std::array<char, 256> text_;
  size_t size_ = 0;
};

// Whether there is such memory; asking the kernel does not fault.
bool Peek(uint64_t address, Words* words) {
  struct iovec into = {words->data(), sizeof(*words)};
  struct iovec from = {reinterpret_cast<void*>(address), sizeof(*words)};
  return ::process_vm_readv(::getpid(), &into, 1, &from, 1, 0) ==
         static_cast<ssize_t>(sizeof(*words));
}

void Tell(int signal, const siginfo_t& info, const ucontext_t& context) {
  Line line;
  Words words;
  line.Text("ferry-guest: it crashes: signal 0x").Hex(static_cast<uint64_t>(signal));
  line.Text(" at 0x").Hex(reinterpret_cast<uint64_t>(info.si_addr)).Write();
  for (const Register& each : kRegisters) {
    const auto value = static_cast<uint64_t>(context.uc_mcontext.gregs[each.index]);
    line.Text("crash: ").Text(each.name).Text("=").Hex(value);
    if (Peek(value, &words)) line.Text(" ->").Hex(words);
    line.Write();
  }
  const auto stack = static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RSP]);
  for (size_t i = 0; i < kStackLines && Peek(stack + i * sizeof(Words), &words); ++i) {
    line.Text("crash: stack").Hex(words).Write();
  }
  // A VM ends at once with process 1, and a console is slow.
  ::tcdrain(STDERR_FILENO);
}

constexpr int kCrashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

void SetAll(const struct sigaction& action) {
  for (const int signal : kCrashes) ::sigaction(signal, &action, nullptr);
}

// By the kernel, or by abort(): no other process can give itself out as the sender of that.
bool IsOurOwn(const siginfo_t& info) {
  return info.si_code > 0 || (info.si_code == SI_TKILL && info.si_pid == ::getpid());
}

// The fault comes again when this returns, abort() goes on, and what was sent is raised.
void OnCrash(int signal, siginfo_t* info, void* context) {
  const bool own = IsOurOwn(*info);
  // The kernel keeps such signals from process 1 where it does not ask for them.
  if (!own && ::getpid() == 1) return;
  struct sigaction usual = {};
  usual.sa_handler = SIG_DFL;
  SetAll(usual);  // one report is enough, and abort() ends in a fault if all else fails
  Tell(signal, *info, *static_cast<const ucontext_t*>(context));
  if (!own) ::raise(signal);
}

}  // namespace

void ReportCrashes() {
  // A stack that overflowed has no room for the report.
  alignas(16) static std::array<char, 64 * 1024> stack;
  stack_t other = {};
  other.ss_sp = stack.data();
  other.ss_size = stack.size();
  ::sigaltstack(&other, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = OnCrash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  // What others send does not cut a report short.
  for (const int signal : kCrashes) ::sigaddset(&action.sa_mask, signal);
  SetAll(action);
}

}  // namespace ferry
