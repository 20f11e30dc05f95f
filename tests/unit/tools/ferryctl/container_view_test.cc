#include "tools/ferryctl/container_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Container Stopped() {
  v1::Container container;
  container.set_id("0123456789abcdef0123456789abcdef");
  container.mutable_spec()->set_name("shop");
  container.mutable_spec()->set_image("web:1");
  container.set_vm_id("52cf");
  container.set_vm_name("one");
  container.set_state(v1::CONTAINER_STATE_STOPPED);
  container.mutable_exit_status()->set_code(3);
  container.set_created_unix_ms(1769860800000);
  return container;
}

TEST(ContainerViewTest, ATableHasALineForEachContainer) {
  v1::ListContainersResponse response;
  *response.add_containers() = Stopped();
  EXPECT_EQ(ContainerTable(response),
            "NAME   IMAGE   STATE     EXIT   VM    CREATED                ID\n"
            "shop   web:1   stopped   3      one   2026-01-31T12:00:00Z   0123456789ab\n");
}

TEST(ContainerViewTest, TellsHowItEnded) {
  v1::ListContainersResponse response;
  v1::Container& container = *response.add_containers() = Stopped();
  container.mutable_exit_status()->set_signal(9);
  EXPECT_THAT(ContainerTable(response), HasSubstr(" signal 9 "));
  container.mutable_exit_status()->set_unknown(true);
  EXPECT_THAT(ContainerTable(response), HasSubstr(" unknown "));
  EXPECT_THAT(ContainerDetails(container), HasSubstr("Exit:            unknown\n"));
  container.set_state(v1::CONTAINER_STATE_RUNNING);
  EXPECT_THAT(ContainerTable(response), HasSubstr(" running   - "));
  EXPECT_THAT(ContainerDetails(container), Not(HasSubstr("Exit:")));
  EXPECT_EQ(ContainerLine(container), "shop running\n");
}

TEST(ContainerViewTest, DetailsSayWhatWasSetOnly) {
  v1::Container container = Stopped();
  const std::string bare = ContainerDetails(container);
  EXPECT_THAT(bare, HasSubstr("VM:              one (52cf)\n"));
  for (const char* unset : {"Memory limit", "User", "Env", "Pod", "Scratch", "Process"}) {
    EXPECT_THAT(bare, Not(HasSubstr(unset)));
  }
  container.set_owns_vm(true);
  container.mutable_spec()->mutable_limits()->set_memory_bytes(64 << 20);
  container.mutable_spec()->mutable_limits()->set_cpu_millis(500);
  container.mutable_spec()->add_environment("A=\x1b[31m");
  (*container.mutable_spec()->mutable_labels())["k"] = "v";
  container.add_layers("sha256:lowest");
  container.add_layers("sha256:topmost");
  const std::string text = ContainerDetails(container);
  EXPECT_THAT(text, HasSubstr("VM:              one (52cf), made for it\n"));
  EXPECT_THAT(text, HasSubstr("Memory limit:    64.0 MiB\n"));
  EXPECT_THAT(text, HasSubstr("CPU limit:       0.5\n"));
  EXPECT_THAT(text, HasSubstr("Env:             A=?[31m\n"));
  EXPECT_THAT(text, HasSubstr("Label:           k=v\n"));
  EXPECT_LT(text.find("sha256:lowest"), text.find("sha256:topmost"));
}

TEST(ContainerViewTest, ShareOfACpuNeedsTwoLooks) {
  v1::ContainerStats before, now;
  before.set_unix_ms(1000);
  before.set_cpu_total_ns(500'000'000);
  now.set_unix_ms(3000);
  now.set_cpu_total_ns(3'500'000'000);
  EXPECT_DOUBLE_EQ(*CpuPercent(before, now), 150);
  // A clock that was set back, the same look twice, and counters that began anew.
  EXPECT_EQ(CpuPercent(now, before), std::nullopt);
  EXPECT_EQ(CpuPercent(now, now), std::nullopt);
  now.set_cpu_total_ns(1);
  EXPECT_EQ(CpuPercent(before, now), std::nullopt);
}

TEST(ContainerViewTest, NumbersWithoutALimitHaveADash) {
  StatsSample sample;
  sample.name = "sh\x1bop";
  sample.vm = "one";
  sample.now.set_unix_ms(2000);
  sample.now.set_cpu_total_ns(10'000'000);
  sample.now.set_memory_bytes(3 << 20);
  sample.now.set_pids(2);
  sample.now.set_oom_kills(1);
  EXPECT_EQ(StatsTable({sample}),
            "NAME    VM    CPU   MEMORY    LIMIT   PIDS   LIMIT   READ   WRITTEN   OOM KILLS\n"
            "sh?op   one   -     3.0 MiB   -       2      -       0 B    0 B       1\n");
  sample.before = v1::ContainerStats();
  sample.before->set_unix_ms(1000);
  sample.now.set_memory_limit_bytes(64 << 20);
  sample.now.set_pids_limit(20);
  EXPECT_THAT(StatsTable({sample}), HasSubstr("one   1.0%   3.0 MiB   64.0 MiB   2      20 "));
}

}  // namespace
}  // namespace ferry::ctl
