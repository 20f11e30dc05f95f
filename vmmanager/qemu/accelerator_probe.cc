#include "vmmanager/qemu/accelerator_probe.h"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_process.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint32_t kLoopIterations = 20'000'000;
constexpr size_t kRomBytes = 64 * 1024;
constexpr size_t kResetVector = 0xfff0;
constexpr int kLoopDoneStatus = (0x10 << 1) | 1;  // isa-debug-exit's way to say 0x10
constexpr milliseconds kTcgLimit{20'000};
// KVM's set-up may take this much longer than TCG's before it counts as slower.
constexpr milliseconds kStartAllowance{250};
constexpr milliseconds kDidNotFinish{-1};

// What the result depends on.
std::string CacheKey(const std::string& binary) {
  struct stat info {};
  if (::stat(binary.c_str(), &info) != 0) return {};
  return absl::StrCat(BootId(), " ", binary, " ", info.st_mtim.tv_sec, " ", info.st_size);
}

std::optional<AcceleratorChoice> ReadCache(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  boost::system::error_code error;
  const json::value value = json::parse(text.str(), error);
  const json::object* object = error ? nullptr : value.if_object();
  if (object == nullptr) return std::nullopt;
  AcceleratorChoice choice;
  for (const auto& [name, member] : *object) {
    const json::string* content = member.if_string();
    if (content == nullptr) return std::nullopt;
    const std::string plain(content->data(), content->size());
    if (name == "key" && plain != key) return std::nullopt;
    if (name == "accelerator") choice.accelerator = plain;
    if (name == "reason") choice.reason = plain;
  }
  if (!object->contains("key") || choice.accelerator.empty()) return std::nullopt;
  return choice;
}

// A failed write only costs the next start a measurement.
void WriteCache(const std::string& path, const std::string& key, const AcceleratorChoice& choice) {
  const json::object object = {
      {"key", key}, {"accelerator", choice.accelerator}, {"reason", choice.reason}};
  const std::string partial = absl::StrCat(path, ".partial");
  {
    std::ofstream file(partial, std::ios::trunc);
    file << json::serialize(object) << '\n';
  }
  if (std::rename(partial.c_str(), path.c_str()) != 0) ::unlink(partial.c_str());
}

struct RemoveOnExit {
  std::string path;
  ~RemoveOnExit() { ::unlink(path.c_str()); }
};

// Kills what has not ended by itself when the measurement is over, whatever ended it.
struct KillOnExit {
  QemuProcess* process;
  ~KillOnExit() { process->Kill(); }
};

Task<absl::StatusOr<ProcessEnd>> WaitEnd(QemuProcess* process) {
  co_return co_await process->WaitEnd();
}

// How long the loop takes, process start included; kDidNotFinish if it does not within `limit`.
Task<milliseconds> TimeLoop(std::string binary, std::string accelerator, std::string rom,
                            milliseconds limit) {
  LaunchSpec spec;
  spec.argv = {binary,
               "-machine",
               "pc",
               "-accel",
               accelerator,
               "-m",
               "16M",
               "-bios",
               rom,
               "-device",
               "isa-debug-exit,iobase=0xf4,iosize=4",
               "-display",
               "none",
               "-nodefaults",
               "-no-user-config"};
  const auto start = std::chrono::steady_clock::now();
  auto process = QemuProcess::Launch(co_await asio::this_coro::executor, spec);
  if (!process.ok()) co_return kDidNotFinish;
  const KillOnExit kill{process->get()};
  absl::StatusOr<ProcessEnd> end =
      co_await WithDeadline(limit, "the loop", WaitEnd(process->get()));
  const auto taken = std::chrono::steady_clock::now() - start;
  if (!end.ok()) {
    (*process)->Kill();
    co_await (*process)->WaitEnd();
    co_return kDidNotFinish;
  }
  const bool finished = end->known && end->exit_code == kLoopDoneStatus;
  co_return finished ? std::chrono::duration_cast<milliseconds>(taken) : kDidNotFinish;
}

}  // namespace

std::string MakeLoopRom(uint32_t iterations) {
  std::string rom(kRomBytes, '\xf4');  // hlt wherever nothing else is
  std::string code = "\x66\xb9";       // mov ecx, iterations
  for (int shift = 0; shift < 32; shift += 8) code += static_cast<char>(iterations >> shift);
  code += "\x66\x49";          // loop: dec ecx
  code += "\x75\xfc";          // jnz loop
  code += "\xb0\x10\xe6\xf4";  // mov al, 0x10; out 0xf4, al
  code += "\xf4\xeb\xfd";      // hlt; jmp to it
  rom.replace(0, code.size(), code);
  const std::string jump("\xea\x00\x00\x00\xf0", 5);  // jmp f000:0000
  rom.replace(kResetVector, jump.size(), jump);
  return rom;
}

AcceleratorChoice ChooseAccelerator(milliseconds tcg, milliseconds kvm) {
  if (kvm < milliseconds::zero()) {
    return {"tcg", absl::StrCat("/dev/kvm opens, but a loop that software emulation finishes in ",
                                tcg.count(), " ms does not finish in that time under KVM")};
  }
  if (tcg >= milliseconds::zero() && kvm > tcg + kStartAllowance) {
    return {"tcg", absl::StrCat("KVM is slower than software emulation: ", kvm.count(),
                                " ms for a ", "loop that takes ", tcg.count(), " ms")};
  }
  return {"kvm", absl::StrCat("KVM finished the measuring loop in ", kvm.count(), " ms")};
}

Task<absl::StatusOr<AcceleratorChoice>> ProbeAccelerator(std::string binary, std::string state_dir,
                                                         bool allow_kvm) {
  if (!allow_kvm) co_return AcceleratorChoice{"tcg", "KVM is switched off in the configuration"};
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    co_return AcceleratorChoice{"tcg", "/dev/kvm is missing or may not be opened"};
  }
  const std::string key = CacheKey(binary);
  const std::string cache = absl::StrCat(state_dir, "/accelerator.json");
  if (std::optional<AcceleratorChoice> known = ReadCache(cache, key)) co_return *known;

  const RemoveOnExit rom{absl::StrCat(state_dir, "/loop-", ::getpid(), ".rom")};
  {
    std::ofstream file(rom.path, std::ios::binary | std::ios::trunc);
    file << MakeLoopRom(kLoopIterations);
    if (!file.flush()) {
      co_return absl::UnavailableError(absl::StrCat("cannot write ", rom.path));
    }
  }
  const milliseconds tcg = co_await TimeLoop(binary, "tcg", rom.path, kTcgLimit);
  const milliseconds limit = (tcg < milliseconds::zero() ? kTcgLimit : tcg) + kStartAllowance;
  const milliseconds kvm = co_await TimeLoop(binary, "kvm", rom.path, limit);
  const AcceleratorChoice choice = ChooseAccelerator(tcg, kvm);
  WriteCache(cache, key, choice);
  co_return choice;
}

}  // namespace ferry::vm
