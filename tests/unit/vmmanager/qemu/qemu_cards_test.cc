#include "vmmanager/qemu/qemu_cards.h"

#include <gmock/gmock.h>

#include <boost/json/parse.hpp>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;

// Has any tap, and writes down what is asked of it.
class RecordingNetwork final : public HostNetwork {
 public:
  Task<absl::Status> Check(schema::NetworkAdapter) override { co_return absl::OkStatus(); }
  Task<absl::StatusOr<Tap>> Open(schema::NetworkAdapter) override { co_return Tap{UniqueFd(), 7}; }
  Task<absl::Status> Carry(std::vector<int>) override {
    calls.push_back("carry");
    if (meanwhile) std::exchange(meanwhile, nullptr)();
    co_return carries;
  }
  void Silence(std::vector<int>) override { calls.push_back("silence"); }

  std::vector<std::string> calls;
  absl::Status carries;
  std::function<void()> meanwhile;  // happens once while they are let carry
};

class QemuCardsTest : public TaskTest {
 protected:
  void PlugIn() {
    std::map<std::string, schema::NetworkAdapter> adapters;
    adapters["0"].bridge = "br0";
    const absl::Status opened = Await(cards_.Open(std::move(adapters)));
    ASSERT_TRUE(opened.ok()) << opened;
  }

  std::shared_ptr<RecordingNetwork> network_ = std::make_shared<RecordingNetwork>();
  QemuCards cards_{network_};
};

TEST_F(QemuCardsTest, KnowWhetherTheyWereLetCarry) {
  PlugIn();
  EXPECT_TRUE(cards_.silent());
  Await(cards_.Carry("vm"));
  EXPECT_FALSE(cards_.silent());
  cards_.Silence();
  EXPECT_TRUE(cards_.silent());
  EXPECT_THAT(network_->calls, ElementsAre("carry", "silence"));
}

// A guest that is only let run again waits for nobody.
TEST_F(QemuCardsTest, WhatCarriesIsLetBe) {
  PlugIn();
  Await(cards_.Carry("vm"));
  Await(cards_.Carry("vm"));
  EXPECT_THAT(network_->calls, ElementsAre("carry"));
}

TEST_F(QemuCardsTest, WhatCouldNotBeLetCarryIsTriedAgain) {
  PlugIn();
  network_->carries = absl::InternalError("the kernel is busy");
  Await(cards_.Carry("vm"));
  EXPECT_TRUE(cards_.silent());
  network_->carries = absl::OkStatus();
  Await(cards_.Carry("vm"));
  EXPECT_FALSE(cards_.silent());
  EXPECT_THAT(network_->calls, ElementsAre("carry", "carry"));
}

TEST_F(QemuCardsTest, AreSilentIfThatWasAskedForLast) {
  PlugIn();
  network_->meanwhile = [this] { cards_.Silence(); };
  Await(cards_.Carry("vm"));
  EXPECT_TRUE(cards_.silent());
  EXPECT_THAT(network_->calls, ElementsAre("carry", "silence"));
  Await(cards_.Carry("vm"));
  EXPECT_FALSE(cards_.silent());
}

TEST_F(QemuCardsTest, WithoutTapsNobodyIsAsked) {
  std::map<std::string, schema::NetworkAdapter> adapters;
  adapters["0"].user = true;
  ASSERT_TRUE(Await(cards_.Open(std::move(adapters))).ok());
  Await(cards_.Carry("vm"));
  EXPECT_FALSE(cards_.silent());
  EXPECT_THAT(network_->calls, ElementsAre());
}

// What a former daemon made of them is not known, and letting them carry once more does no harm.
TEST_F(QemuCardsTest, CountAsSilentOnceTakenOver) {
  const boost::json::value record = boost::json::parse("[7]");
  cards_.Adopt(&record);
  EXPECT_TRUE(cards_.silent());
  Await(cards_.Carry("vm"));
  EXPECT_FALSE(cards_.silent());
  EXPECT_THAT(network_->calls, ElementsAre("carry"));
}

}  // namespace
}  // namespace ferry::vm
