#include "bridge/guest/guest_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/bridge/guest/guest_server_fixture.h"

namespace ferry::bridge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

net::Link LinkOf(int index, const std::string& name, const std::string& mac) {
  net::Link link;
  link.index = index;
  link.name = name;
  link.mac = *net::ParseMac(mac);
  return link;
}

NetworkAdapter Adapter() {
  NetworkAdapter adapter;
  adapter.id = "eth0";
  adapter.mac_address = "02-FE-00-00-00-01";
  adapter.ip_configs = {{"192.0.2.7", 24}, {"2001:db8::7", 64}};
  adapter.routes = {{"192.0.2.1", "0.0.0.0/0"}, {"2001:db8::1", "::/0"}};
  return adapter;
}

std::vector<net::Link> Links() {
  return {LinkOf(1, "lo", "00:00:00:00:00:00"), LinkOf(2, "eth0", "02:fe:00:00:00:02"),
          LinkOf(3, "eth1", "02:fe:00:00:00:01")};
}

std::vector<std::string> WhatOf(const std::vector<NetworkStep>& steps) {
  std::vector<std::string> what;
  for (const NetworkStep& step : steps) what.push_back(step.what);
  return what;
}

TEST(GuestNetworkTest, ACardIsFoundByItsMacAndGetsItsName) {
  const auto steps = PlanNetwork(Adapter(), Links());
  ASSERT_TRUE(steps.ok()) << steps.status();
  EXPECT_THAT(WhatOf(*steps),
              ElementsAre("rename the interface eth0", "name an interface eth0",
                          "set the interface eth0 up", "give eth0 the address 192.0.2.7/24",
                          "give eth0 the address 2001:db8::7/64",
                          "route 0.0.0.0/0 through 192.0.2.1", "route ::/0 through 2001:db8::1"));
  EXPECT_EQ(steps->at(3).request, net::AddAddress(3, *net::ParsePrefix("192.0.2.7/24")));
  EXPECT_EQ(steps->at(5).request, net::AddRoute(3, *net::ParseIp("192.0.2.1"), std::nullopt));
  EXPECT_TRUE(steps->at(3).may_exist && steps->at(6).may_exist);
  EXPECT_FALSE(steps->at(2).may_exist);
}

TEST(GuestNetworkTest, WhatHasItsNameIsNotRenamed) {
  NetworkAdapter adapter = Adapter();
  adapter.id = "eth1";
  const auto steps = PlanNetwork(adapter, Links());
  ASSERT_TRUE(steps.ok()) << steps.status();
  EXPECT_EQ(steps->at(0).what, "set the interface eth1 up");
}

TEST(GuestNetworkTest, WhatCannotBeIsRefused) {
  const auto refusal = [](const std::function<void(NetworkAdapter*)>& change) {
    NetworkAdapter adapter = Adapter();
    change(&adapter);
    return PlanNetwork(adapter, Links()).status().code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->id = "lo"; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->id = "../x"; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->mac_address = "no"; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->ip_configs[0].prefix_length = 99; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->routes[0].next_hop = "::1"; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->routes[0].destination_prefix = "0"; }), kBad);
  EXPECT_EQ(refusal([](NetworkAdapter* a) { a->mac_address = "02-FE-00-00-00-03"; }),
            absl::StatusCode::kNotFound);
}

DhcpClient::Lease LeaseOf(const std::string& address, const std::string& router) {
  net::DhcpLease lease;
  lease.address = *net::ParsePrefix(address);
  if (!router.empty()) lease.router = *net::ParseIp(router);
  return lease;
}

TEST(GuestNetworkTest, ALeaseBecomesAnAddressAndALastWayOut) {
  const auto steps = PlanLease(3, "eth0", std::nullopt, LeaseOf("192.0.2.50/24", "192.0.2.1"));
  EXPECT_THAT(WhatOf(steps),
              ElementsAre("give eth0 the address 192.0.2.50/24", "route through 192.0.2.1"));
  EXPECT_EQ(steps[0].request, net::AddAddress(3, *net::ParsePrefix("192.0.2.50/24")));
  EXPECT_EQ(steps[1].request, net::AddRoute(3, *net::ParseIp("192.0.2.1"), std::nullopt, 1027));
  EXPECT_TRUE(steps[0].may_exist && steps[1].may_exist);
}

TEST(GuestNetworkTest, WhatALeaseBroughtGoesWithIt) {
  const DhcpClient::Lease before = LeaseOf("192.0.2.50/24", "192.0.2.1");
  EXPECT_THAT(WhatOf(PlanLease(3, "eth0", before, std::nullopt)),
              ElementsAre("route through 192.0.2.1 no more", "take 192.0.2.50/24 from eth0"));
  const auto moved = PlanLease(3, "eth0", before, LeaseOf("192.0.2.51/24", ""));
  EXPECT_THAT(WhatOf(moved),
              ElementsAre("route through 192.0.2.1 no more", "take 192.0.2.50/24 from eth0",
                          "give eth0 the address 192.0.2.51/24"));
  EXPECT_TRUE(moved[0].may_fail && moved[1].may_fail);
  EXPECT_FALSE(moved[2].may_fail);
  EXPECT_THAT(WhatOf(PlanLease(3, "eth0", before, LeaseOf("192.0.2.50/24", "192.0.2.2"))),
              ElementsAre("route through 192.0.2.1 no more", "give eth0 the address 192.0.2.50/24",
                          "route through 192.0.2.2"));
}

TEST(GuestNetworkTest, DhcpAndNameServersAreInTheMessageIfTheyAreAskedFor) {
  NetworkAdapter adapter;
  adapter.id = "eth0";
  adapter.mac_address = "02-FE-00-00-00-01";
  adapter.name_servers = {"192.0.2.2", "2001:db8::2"};
  adapter.dhcp = true;
  const std::string text = Encode(adapter);
  EXPECT_EQ(text, R"({"ID":"eth0","MacAddress":"02-FE-00-00-00-01",)"
                  R"("DNSServerList":"192.0.2.2,2001:db8::2","DhcpEnabled":true})");
  const auto back = Decode<NetworkAdapter>(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, adapter);
  adapter.name_servers.resize(kMaxNameServerEntries + 1, "192.0.2.2");
  EXPECT_THAT(std::string(Decode<NetworkAdapter>(Encode(adapter)).status().message()),
              HasSubstr("DNSServerList"));
}

TEST(GuestNetworkTest, MessagesHaveHcsshimsNames) {
  NetworkAdapter adapter = Adapter();
  adapter.ip_configs.resize(1);
  adapter.routes.resize(1);
  const std::string text = Encode(adapter);
  EXPECT_EQ(text, R"({"ID":"eth0","MacAddress":"02-FE-00-00-00-01","IPConfigs":[{"IPAddress":)"
                  R"("192.0.2.7","PrefixLength":24}],"Routes":[{"NextHop":"192.0.2.1",)"
                  R"("DestinationPrefix":"0.0.0.0/0"}]})");
  const auto back = Decode<NetworkAdapter>(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, adapter);
  for (const char* bad : {"{}", R"({"ID":"a"})", R"({"ID":"a","MacAddress":"m","NamespaceID":"x"})",
                          R"({"ID":"a","MacAddress":"m","IPConfigs":[{"PrefixLength":-1}]})"}) {
    EXPECT_FALSE(Decode<NetworkAdapter>(bad).ok()) << bad;
  }
  adapter.routes.resize(kMaxRoutes + 1);
  EXPECT_THAT(std::string(Decode<NetworkAdapter>(Encode(adapter)).status().message()),
              HasSubstr("Routes"));
}

struct FakeNetwork final : GuestNetwork {
  absl::Status Add(const NetworkAdapter& adapter) override {
    added.push_back(adapter);
    return adapter.id == "gone" ? absl::NotFoundError("no such card") : absl::OkStatus();
  }
  std::string resolver() const override { return text; }
  void set_on_resolver(std::function<void()> callback) override { on_resolver = callback; }
  void Confirm() override { ++confirmed; }
  void StoodStill(std::chrono::nanoseconds duration) override { stood_still += duration; }
  std::vector<NetworkLease> leases() const override { return leased; }

  std::vector<NetworkAdapter> added;
  std::string text;
  std::function<void()> on_resolver;
  int confirmed = 0;
  std::chrono::nanoseconds stood_still{0};
  std::vector<NetworkLease> leased;
};

TEST_F(GuestServerTest, NetworkCardsAreAddedByModifySettings) {
  FakeNetwork network;
  GuestServer::Options options;
  options.network = &network;
  server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  auto test = [](FakeGuestTransport* transport, FakeNetwork* cards) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest negotiate;
    const auto terms = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, negotiate);
    EXPECT_TRUE(terms.capabilities.guest_defined.network_supported);
    ModifySettingsRequest add;
    add.resource_type = kResourceNetwork;
    add.settings = Encode(Adapter());
    const auto added = co_await host->Call<SimpleResponse>(kModifySettings, 1, add);
    EXPECT_EQ(HResult(added.result), kHresultOk);
    EXPECT_THAT(cards->added, ElementsAre(Adapter()));
    NetworkAdapter gone = Adapter();
    gone.id = "gone";
    add.settings = Encode(gone);
    const auto failed = co_await host->Call<SimpleResponse>(kModifySettings, 2, add);
    EXPECT_EQ(HResult(failed.result), kHresultFailed);
    EXPECT_THAT(failed.error_message, HasSubstr("no such card"));
    add.request_type = "Remove";
    const auto refused = co_await host->Call<SimpleResponse>(kModifySettings, 3, add);
    EXPECT_EQ(HResult(refused.result), kHresultInvalidArgument);
    add.settings = "[]";
    const auto bad = co_await host->Call<SimpleResponse>(kModifySettings, 4, add);
    EXPECT_EQ(HResult(bad.result), kHresultBadJson);
  };
  Run(test(&transport_, &network));
}

TEST_F(GuestServerTest, ANewHostAndAStandstillAreToldToTheCards) {
  struct ForwardClock final : WallClock {
    int64_t Now() const override { return 0; }
    absl::Status Adjust(int64_t offset_ns) override {
      return offset_ns < 0 ? absl::InvalidArgumentError("never") : absl::OkStatus();
    }
  } clock;
  FakeNetwork network;
  network.leased = {{"eth0", "192.0.2.50/24", "192.0.2.1", {"192.0.2.2"}, "192.0.2.1"}};
  GuestServer::Options options;
  options.network = &network;
  options.clock = &clock;
  server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  auto test = [](FakeGuestTransport* transport, FakeNetwork* cards) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_EQ(cards->confirmed, 1);
    AdjustClockRequest adjust;
    adjust.offset_ns = 5'000'000'000;
    const auto adjusted = co_await host->Call<SimpleResponse>(kAdjustClock, 1, adjust);
    EXPECT_EQ(HResult(adjusted.result), kHresultOk);
    EXPECT_EQ(cards->stood_still, std::chrono::seconds(5));
    adjust.offset_ns = -1;
    const auto refused = co_await host->Call<SimpleResponse>(kAdjustClock, 2, adjust);
    EXPECT_NE(HResult(refused.result), kHresultOk);
    EXPECT_EQ(cards->stood_still, std::chrono::seconds(5));
    GetPropertiesRequest ask;
    ask.query = R"({"PropertyTypes":["NetworkLeases"]})";
    const auto told = co_await host->Call<GetPropertiesResponse>(kGetProperties, 3, ask);
    const auto properties = Decode<ContainerProperties>(told.properties);
    EXPECT_TRUE(properties.ok()) << properties.status();
    EXPECT_EQ(properties.value_or(ContainerProperties()).network_leases, cards->leased);
  };
  Run(test(&transport_, &network));
}

}  // namespace
}  // namespace ferry::bridge
