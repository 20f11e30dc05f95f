// A QEMU that the guest has taken over, at the daemon's end of its monitor.

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/fuzz_target.h"
#include "vmmanager/qemu/qmp_core.h"

namespace ferry::fuzz {
namespace {

constexpr size_t kMaxMessage = 4096;
constexpr char kGreeting[] = R"({"QMP":{"version":{},"capabilities":["oob"]}})"
                             "\n";
constexpr char kNegotiated[] = R"({"return":{},"id":0})"
                               "\n";

class Monitor {
 public:
  void Submit(std::string_view argument, bool out_of_band) {
    boost::json::object arguments;
    arguments["uri"] = boost::json::string_view(argument.data(), argument.size());
    const auto id = core_.Submit("migrate", std::move(arguments),
                                 out_of_band ? vm::QmpLane::kOutOfBand : vm::QmpLane::kInBand);
    if (id.ok()) Check(answers_.emplace(*id, 0).second);
  }

  void Feed(std::string_view bytes) {
    const absl::Status status = core_.Feed(bytes);
    Check(status.ok() != core_.failed());
    Drain();
  }

  void End() {
    core_.Fail(absl::UnavailableError("over"));
    Drain();
    Check(core_.pending() == 0);
    for (const auto& [id, count] : answers_) Check(count == 1);
  }

 private:
  void Drain() {
    for (const vm::QmpReply& reply : core_.TakeReplies()) {
      const auto found = answers_.find(reply.id);
      Check(found != answers_.end());
      ++found->second;
    }
    const auto wall = std::chrono::system_clock::time_point(std::chrono::hours(500'000));
    const auto steady = std::chrono::steady_clock::time_point(std::chrono::hours(1));
    for (const vm::QmpEvent& event : core_.TakeEvents()) {
      Check(!event.name.empty());
      Check(vm::SteadyTimeOf(event.wall_time, wall, steady) <= steady);
    }
    core_.TakeOutput();
  }

  vm::QmpCore core_{kMaxMessage};
  std::map<uint64_t, int> answers_;
};

}  // namespace

std::vector<std::string> Seeds() {
  const std::string event =
      R"({"timestamp":{"seconds":1700000000,"microseconds":5},"event":"STOP","data":{"a":[1]}})"
      "\n";
  const std::string late =
      R"({"timestamp":{"seconds":9223372036854775807,"microseconds":9223372036854775807},"event":"X"})"
      "\n";
  const std::string error = R"({"error":{"class":"DeviceNotFound","desc":"no"},"id":1})"
                            "\n";
  const std::string answer = R"({"return":[{"name":"x","value":1e3}],"id":2})"
                             "\n";
  const std::string talk = Part(1, "unix:/x") + Part(2, "tcp:1") + Part(0, error) +
                           Part(0, answer) + Part(0, event) + Part(0, late);
  return {std::string(1, 1) + talk,
          std::string(1, 0) + Part(0, kGreeting) + Part(0, kNegotiated) + talk};
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  Input input(data, size);
  Monitor monitor;
  if (input.Byte() % 2 == 1) {
    monitor.Feed(kGreeting);
    monitor.Feed(kNegotiated);
  }
  while (!input.empty()) {
    const uint8_t what = input.Byte() % 4;
    const std::string_view text = input.Take(input.Byte());
    if (what == 1 || what == 2) {
      monitor.Submit(text, what == 2);
    } else {
      monitor.Feed(text);
    }
  }
  monitor.End();
  return 0;
}
