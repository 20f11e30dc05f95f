#include "vmmanager/sandbox/vm_nics.h"

#include "bridge/protocol/message_types.h"
#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/incoming_machine.h"
#include "vmmanager/sandbox/machine_document.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

v1::VmSpec SpecWith(const std::string& bridge, const std::string& mac = "") {
  v1::VmSpec spec;
  spec.set_name("web");
  v1::NicSpec* nic = spec.add_nics();
  nic->set_bridge(bridge);
  nic->set_mac(mac);
  nic->add_addresses("192.0.2.7/24");
  nic->add_gateways("192.0.2.1");
  return spec;
}

// What is said of a card that was changed so; empty if it is taken.
std::string RefusalOf(const std::function<void(v1::NicSpec*)>& change) {
  v1::VmSpec spec = SpecWith("br0");
  change(spec.mutable_nics(0));
  const absl::Status status = CompleteNics(&spec);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(VmNicsTest, DefaultsAreFilledIn) {
  v1::VmSpec spec = SpecWith("br0", "02-FE-00-00-00-0A");
  spec.add_nics()->set_user(true);
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_EQ(spec.nics(0).name(), "eth0");
  EXPECT_EQ(spec.nics(0).mac(), "02:fe:00:00:00:0a");
  EXPECT_EQ(spec.nics(1).name(), "eth1");
  EXPECT_THAT(spec.nics(1).addresses(), ElementsAre("10.0.2.15/24"));
  EXPECT_EQ(spec.nics(1).mac(), "");
}

TEST(VmNicsTest, TheVmmsOwnNetworkLeadsOutWhereNothingElseDoes) {
  v1::VmSpec spec;
  spec.add_nics()->set_user(true);
  *spec.add_nics() = SpecWith("br0").nics(0);
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_THAT(spec.nics(0).addresses(), ElementsAre("10.0.2.15/24"));
  EXPECT_THAT(spec.nics(0).gateways(), IsEmpty());
  spec.mutable_nics(0)->clear_addresses();
  spec.mutable_nics(1)->set_gateways(0, "fe80::1");
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_THAT(spec.nics(0).gateways(), ElementsAre("10.0.2.2"));
  const std::string complete = spec.SerializeAsString();
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_EQ(spec.SerializeAsString(), complete);
}

TEST(VmNicsTest, AGuestHasEachAddressAndEachWayOutOnce) {
  v1::VmSpec spec;
  for (int i = 0; i < 2; ++i) spec.add_nics()->set_user(true);
  v1::VmSpec apart = spec;
  EXPECT_THAT(std::string(CompleteNics(&spec).message()),
              HasSubstr("card \"eth1\": another card has its address 10.0.2.15"));
  apart.mutable_nics(1)->add_addresses("10.0.2.16/24");
  EXPECT_TRUE(CompleteNics(&apart).ok());
  apart.mutable_nics(1)->add_gateways("10.0.2.2");
  EXPECT_THAT(std::string(CompleteNics(&apart).message()),
              HasSubstr("another card has its way out for IPv4"));
  spec = SpecWith("br0");
  *spec.add_nics() = SpecWith("br1").nics(0);
  EXPECT_THAT(std::string(CompleteNics(&spec).message()),
              HasSubstr("another card has its address 192.0.2.7"));
  spec.mutable_nics(1)->clear_gateways();
  for (v1::NicSpec& nic : *spec.mutable_nics()) {
    if (nic.gateways().empty()) nic.clear_addresses();
    nic.add_addresses("fe80::7/64");
  }
  const absl::Status links = CompleteNics(&spec);
  EXPECT_TRUE(links.ok()) << links;
}

TEST(VmNicsTest, WhatCannotBeIsRefusedWithWhatCan) {
  EXPECT_EQ(RefusalOf([](v1::NicSpec*) {}), "");
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->clear_place(); }), HasSubstr("say bridge=NAME"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_user(false); }), HasSubstr("nowhere"));
  for (const char* bad : {"sixteen-letters-", "br 0", "..", "a/b", "br%d"}) {
    EXPECT_THAT(RefusalOf([&](v1::NicSpec* n) { n->set_bridge(bad); }), HasSubstr("at most 15"));
    EXPECT_THAT(RefusalOf([&](v1::NicSpec* n) { n->set_tap(bad); }), HasSubstr("at most 15"));
    EXPECT_THAT(RefusalOf([&](v1::NicSpec* n) { n->set_name(bad); }), HasSubstr("at most 15"));
  }
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_name("lo"); }), HasSubstr("at most 15"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_mac("x"); }), HasSubstr("write it as"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_mac("03:00:00:00:00:01"); }),
              HasSubstr("unicast"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_mac("fe:00:00:00:00:01"); }),
              HasSubstr("the host's end"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_addresses("192.0.2.8"); }),
              HasSubstr("192.0.2.7/24"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_addresses("192.0.2.7/25"); }),
              HasSubstr("twice"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_addresses("127.0.0.1/8"); }),
              HasSubstr("a single host"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->set_gateways(0, "198.51.100.1"); }),
              HasSubstr("in the network of one"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_gateways("192.0.2.2"); }),
              HasSubstr("one for IPv4"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_gateways("2001:db8::1"); }),
              HasSubstr("in the network of one"));
  EXPECT_EQ(RefusalOf([](v1::NicSpec* n) { n->add_gateways("fe80::1"); }), "");
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) {
                for (int i = 0; i < 9; ++i) n->add_addresses(absl::StrCat("10.0.0.", i, "/8"));
              }),
              HasSubstr("at most 8"));
}

TEST(VmNicsTest, DhcpIsInPlaceOfIpv4AddressesAlone) {
  const auto refusal = [](const std::function<void(v1::NicSpec*)>& change) {
    return RefusalOf([&change](v1::NicSpec* nic) {
      nic->clear_addresses();
      nic->clear_gateways();
      nic->set_dhcp(true);
      change(nic);
    });
  };
  EXPECT_EQ(refusal([](v1::NicSpec*) {}), "");
  EXPECT_EQ(refusal([](v1::NicSpec* n) {
              n->add_addresses("2001:db8::7/64");
              n->add_gateways("2001:db8::1");
            }),
            "");
  EXPECT_THAT(refusal([](v1::NicSpec* n) { n->add_addresses("192.0.2.7/24"); }),
              HasSubstr("address is 192.0.2.7/24 beside dhcp"));
  EXPECT_THAT(refusal([](v1::NicSpec* n) {
                n->add_addresses("192.0.2.7/24");
                n->add_gateways("192.0.2.1");
              }),
              HasSubstr("beside dhcp"));
  EXPECT_THAT(refusal([](v1::NicSpec* n) { n->set_user(true); }),
              HasSubstr("the address is known there"));
}

TEST(VmNicsTest, ACardThatAsksLeadsOut) {
  v1::VmSpec spec;
  spec.add_nics()->set_user(true);
  spec.add_nics()->set_bridge("br0");
  spec.mutable_nics(1)->set_dhcp(true);
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_THAT(spec.nics(0).addresses(), ElementsAre("10.0.2.15/24"));
  EXPECT_THAT(spec.nics(0).gateways(), IsEmpty());
}

TEST(VmNicsTest, NameServersAreAddressesAndNoMoreThanAreAsked) {
  EXPECT_EQ(RefusalOf([](v1::NicSpec* n) { n->add_name_servers("2001:DB8::0:2"); }), "");
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_name_servers("dns.example.org"); }),
              HasSubstr("no IP address"));
  EXPECT_THAT(RefusalOf([](v1::NicSpec* n) { n->add_name_servers("224.0.0.1"); }),
              HasSubstr("a single host"));
  v1::VmSpec spec = SpecWith("br0");
  spec.add_nics()->set_user(true);
  for (v1::NicSpec& nic : *spec.mutable_nics()) {
    for (const char* server : {"192.0.2.1", "192.0.2.2"}) nic.add_name_servers(server);
  }
  EXPECT_THAT(std::string(CompleteNics(&spec).message()),
              HasSubstr("4 name servers; use at most 3"));
  spec.mutable_nics(0)->mutable_name_servers()->RemoveLast();
  spec.mutable_nics(0)->set_name_servers(0, "2001:DB8::0:2");
  ASSERT_TRUE(CompleteNics(&spec).ok());
  EXPECT_THAT(spec.nics(0).name_servers(), ElementsAre("2001:db8::2"));
}

TEST(VmNicsTest, TheGuestIsToldToAsk) {
  v1::VmSpec spec;
  v1::NicSpec* nic = spec.add_nics();
  nic->set_bridge("br0");
  nic->set_dhcp(true);
  nic->add_name_servers("192.0.2.2");
  ASSERT_TRUE(CompleteNics(&spec).ok());
  const auto adapters = GuestAdaptersOf(spec);
  ASSERT_THAT(adapters, SizeIs(1));
  EXPECT_TRUE(adapters[0].dhcp);
  EXPECT_THAT(adapters[0].name_servers, ElementsAre("192.0.2.2"));
  EXPECT_THAT(adapters[0].ip_configs, IsEmpty());
}

TEST(VmNicsTest, WhatAGuestSaysOfItsLeasesIsBelievedIfItCanBe) {
  v1::VmSpec spec;
  for (const char* name : {"eth0", "eth1", "eth2"}) {
    v1::NicSpec* nic = spec.add_nics();
    nic->set_name(name);
    nic->set_bridge("br0");
    nic->set_dhcp(true);
  }
  spec.mutable_nics(2)->set_dhcp(false);
  EXPECT_TRUE(AsksForLeases(spec));
  const std::vector<std::string> many(50, "192.0.2.2");
  const auto leases = LeasesOf(spec, {{"eth0", "192.0.2.50/24", "192.0.2.1", many, "192.0.2.1"},
                                      {"eth1", "\x1b[2J", "", {}, "192.0.2.1"},
                                      {"eth2", "192.0.2.52/24", "", {}, "192.0.2.1"},
                                      {"eth9", "192.0.2.53/24", "", {}, "192.0.2.1"}});
  ASSERT_THAT(leases, SizeIs(1));
  EXPECT_EQ(leases[0].nic(), "eth0");
  EXPECT_EQ(leases[0].address(), "192.0.2.50/24");
  EXPECT_EQ(leases[0].gateway(), "192.0.2.1");
  EXPECT_THAT(leases[0].name_servers(), SizeIs(3));
  EXPECT_EQ(leases[0].server(), "192.0.2.1");
}

TEST(VmNicsTest, HostileNamesDoNotReachTheMessage) {
  const std::string refusal =
      RefusalOf([](v1::NicSpec* n) { n->set_name(std::string(50'000, '\x1b')); });
  EXPECT_LT(refusal.size(), 1000u);
  EXPECT_EQ(refusal.find('\x1b'), std::string::npos);
}

TEST(VmNicsTest, CardsOfOneVmDoNotShare) {
  v1::VmSpec spec = SpecWith("br0", "02:fe:00:00:00:01");
  *spec.add_nics() = spec.nics(0);
  EXPECT_THAT(std::string(CompleteNics(&spec).message()), HasSubstr("its MAC address"));
  spec.mutable_nics(1)->set_mac("");
  spec.mutable_nics(1)->set_name("eth0");
  EXPECT_THAT(std::string(CompleteNics(&spec).message()), HasSubstr("its name"));
  spec.mutable_nics(0)->set_tap("tap0");
  spec.mutable_nics(1)->set_tap("tap0");
  spec.mutable_nics(1)->set_name("eth1");
  EXPECT_THAT(std::string(CompleteNics(&spec).message()), HasSubstr("its tap device"));
  for (int i = 0; i < 6; ++i) spec.add_nics()->set_user(true);
  EXPECT_THAT(std::string(CompleteNics(&spec).message()), HasSubstr("at most 6"));
}

TEST(VmNicsTest, MadeMacsAreLocalUnicastAndNew) {
  std::set<net::MacAddress> taken;
  for (int i = 0; i < 200; ++i) {
    v1::VmSpec spec = SpecWith("br0");
    MakeMacs(taken, &spec);
    const auto mac = net::ParseMac(spec.nics(0).mac());
    ASSERT_TRUE(mac.ok()) << mac.status();
    EXPECT_THAT(mac->ToString(), StartsWith("02:fe:"));
    EXPECT_TRUE(taken.insert(*mac).second);
  }
}

TEST(VmNicsTest, TheGuestIsToldInHcssWords) {
  v1::VmSpec spec = SpecWith("br0", "02:fe:00:00:00:01");
  spec.mutable_nics(0)->add_addresses("2001:db8::7/64");
  spec.mutable_nics(0)->add_gateways("2001:db8::1");
  ASSERT_TRUE(CompleteNics(&spec).ok());
  const auto adapters = GuestAdaptersOf(spec);
  ASSERT_THAT(adapters, SizeIs(1));
  EXPECT_EQ(adapters[0].id, "eth0");
  EXPECT_EQ(adapters[0].mac_address, "02-FE-00-00-00-01");
  EXPECT_THAT(adapters[0].ip_configs,
              ElementsAre(bridge::IpConfig{"192.0.2.7", 24}, bridge::IpConfig{"2001:db8::7", 64}));
  EXPECT_THAT(adapters[0].routes, ElementsAre(bridge::NetworkRoute{"192.0.2.1", "0.0.0.0/0"},
                                              bridge::NetworkRoute{"2001:db8::1", "::/0"}));
}

class VmNicsOnAHostTest : public SandboxTest {
 protected:
  absl::StatusOr<std::shared_ptr<UtilityVm>> CreateOf(const v1::VmSpec& spec) {
    v1::CreateVmRequest request;
    *request.mutable_spec() = spec;
    return Await(host_.inventory->Create(request));
  }

  // As a host just like this one would send it.
  state::v1::VmPayload PayloadOf(const v1::VmSpec& spec) {
    const schema::ComputeSystem document =
        BuildDocument(*CompleteSpec(spec), host_.settings, host_.backend.info(), 0);
    state::v1::VmPayload payload;
    payload.set_vm_id("id");
    payload.set_vm_name("web");
    payload.set_hcs_document_json(schema::ToJson(document));
    *payload.mutable_fingerprint() =
        *Await(MakeFingerprint(document, host_.backend.info(), digests_));
    return payload;
  }

  ThreadedFileReads reads_{io_.get_executor()};
  ImageDigests digests_{reads_};
};

TEST_F(VmNicsOnAHostTest, AMacIsMadeOnceAndBelongsToTheVm) {
  auto vm = CreateOf(SpecWith("br0"));
  ASSERT_TRUE(vm.ok()) << vm.status();
  const std::string mac = (*vm)->spec().nics(0).mac();
  EXPECT_THAT(mac, StartsWith("02:fe:"));
  const auto& adapters = (*vm)->document().virtual_machine.devices.network_adapters;
  ASSERT_THAT(adapters, SizeIs(1));
  EXPECT_EQ(adapters.at("0"),
            (schema::NetworkAdapter{net::ParseMac(mac)->ToHcsString(), "eth0", "br0", "", false}));
  RestartDaemon();
  EXPECT_EQ((*host_.inventory->Find("web"))->spec().nics(0).mac(), mac);
}

TEST_F(VmNicsOnAHostTest, AMacThatAnotherVmHasIsRefused) {
  ASSERT_TRUE(CreateOf(SpecWith("br0", "02:fe:00:00:00:01")).ok());
  v1::VmSpec other = SpecWith("br1", "02-FE-00-00-00-01");
  other.set_name("other");
  const absl::Status refused = CreateOf(other).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(rpc::ReasonOf(refused), "mac_taken");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("VM web"));
  EXPECT_FALSE(rpc::NextStepOf(refused).empty());
  EXPECT_THAT(host_.inventory->List(), SizeIs(1));
}

TEST_F(VmNicsOnAHostTest, AVmThatCannotBePluggedInDoesNotFit) {
  const state::v1::VmPayload payload = PayloadOf(SpecWith("br0", "02:fe:00:00:00:01"));
  auto machine = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_THAT(machine->differences, SizeIs(1));
  EXPECT_EQ(machine->differences[0].field(), "nic eth0");
  EXPECT_EQ(machine->differences[0].source(), "bridge br0");
  EXPECT_THAT(machine->differences[0].destination(), HasSubstr("no bridge br0"));
  host_.backend.mutable_bridges().insert("br0");
  machine = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_THAT(machine->differences, IsEmpty());
}

// As a VM that goes back to a checkpoint does.
TEST_F(VmNicsOnAHostTest, ATapThatTheVmItselfHoldsIsNotInItsWay) {
  v1::VmSpec spec = SpecWith("br0", "02:fe:00:00:00:01");
  spec.mutable_nics(0)->set_tap("tap0");
  auto vm = CreateOf(spec);
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE(Await((*vm)->Start()).ok());
  state::v1::VmPayload payload = PayloadOf(spec);
  const auto fit = [&] { return Await(FitMachine(payload, *host_.inventory, digests_)); };
  // Nobody but itself has it to spare.
  auto machine = fit();
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_THAT(machine->differences, ::testing::Not(IsEmpty()));
  payload.set_vm_id((*vm)->id());
  machine = fit();
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_THAT(machine->differences, IsEmpty());
  // Once it does not run it is asked for like any other.
  ASSERT_TRUE(Await((*vm)->Stop(true, milliseconds(0))).ok());
  machine = fit();
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_THAT(machine->differences, SizeIs(1));
  EXPECT_EQ(machine->differences[0].field(), "nic eth0");
}

TEST_F(VmNicsOnAHostTest, NoMoreCardsAreTriedThanThereMayBe) {
  state::v1::VmPayload payload = PayloadOf(SpecWith("br0", "02:fe:00:00:00:01"));
  auto document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  auto& adapters = document.virtual_machine.devices.network_adapters;
  for (int i = 1; i < 7; ++i) adapters[absl::StrCat(i)] = {"", "", "br1", "", false};
  payload.set_hcs_document_json(schema::ToJson(document));
  const auto machine = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_TRUE(machine.ok()) << machine.status();
  int about_cards = 0;
  for (const v1::Difference& difference : machine->differences) {
    if (difference.field() == "nic") {
      EXPECT_EQ(difference.destination(), "at most 6");
    }
    about_cards += difference.field().rfind("nic", 0) == 0 ? 1 : 0;
  }
  EXPECT_EQ(about_cards, 1);
}

TEST_F(VmNicsOnAHostTest, AVmWhoseMacIsTakenDoesNotFit) {
  host_.backend.mutable_bridges().insert("br0");
  v1::VmSpec other = SpecWith("br0", "02:fe:00:00:00:01");
  other.set_name("other");
  ASSERT_TRUE(CreateOf(other).ok());
  const state::v1::VmPayload payload = PayloadOf(SpecWith("br0", "02:fe:00:00:00:01"));
  auto machine = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_THAT(machine->differences, SizeIs(1));
  EXPECT_EQ(machine->differences[0].field(), "nic");
  EXPECT_THAT(machine->differences[0].destination(), HasSubstr("VM other"));
  VmRow row;
  row.id = "id";
  row.name = "web";
  const auto incoming =
      host_.inventory->AddIncoming("session-1", row, v1::VmSpec(), machine->document);
  EXPECT_EQ(rpc::ReasonOf(incoming.status()), "mac_taken");
}

TEST_F(VmNicsOnAHostTest, CardsThatNobodyMayMakeHereDoNotCome) {
  const v1::VmSpec spec = *CompleteSpec(SpecWith("br0", "02:fe:00:00:00:01"));
  const auto document = *schema::ComputeSystemFromJson(PayloadOf(spec).hcs_document_json());
  VmRow row;
  row.id = "id";
  row.name = "web";
  v1::VmSpec other = spec;
  other.mutable_nics(0)->set_name("\x1b[2J");
  EXPECT_TRUE(absl::IsInvalidArgument(
      host_.inventory->AddIncoming("session-1", row, other, document).status()));
  other = spec;
  other.mutable_nics(0)->set_bridge("br1");
  EXPECT_TRUE(absl::IsInvalidArgument(
      host_.inventory->AddIncoming("session-1", row, other, document).status()));
  other = spec;
  other.mutable_nics(0)->clear_mac();
  auto unnamed = document;
  unnamed.virtual_machine.devices.network_adapters = AdaptersOf(other);
  EXPECT_TRUE(absl::IsInvalidArgument(
      host_.inventory->AddIncoming("session-1", row, other, unnamed).status()));
  const auto incoming = host_.inventory->AddIncoming("session-1", row, spec, document);
  EXPECT_TRUE(incoming.ok()) << incoming.status();
}

TEST_F(VmNicsOnAHostTest, WhatTheSourceLeftToDefaultsIsFilledInHere) {
  v1::VmSpec spec = SpecWith("br0", "02-FE-00-00-00-01");
  spec.add_nics()->set_user(true);
  spec.mutable_nics(1)->set_mac("02:fe:00:00:00:02");
  spec.clear_memory_mb();
  spec.clear_cpus();
  const auto document = *schema::ComputeSystemFromJson(PayloadOf(spec).hcs_document_json());
  VmRow row;
  row.id = "id";
  row.name = "web";
  ASSERT_TRUE(WriteSpec(spec, &row.spec_json).ok());
  v1::VmSpec huge = spec;
  huge.set_cpus(100'000);  // it would boot with them one day
  EXPECT_TRUE(absl::IsInvalidArgument(
      host_.inventory->AddIncoming("session-1", row, huge, document).status()));
  const auto incoming = host_.inventory->AddIncoming("session-1", row, spec, document);
  ASSERT_TRUE(incoming.ok()) << incoming.status();
  v1::VmSpec written;
  ASSERT_TRUE(ReadSpec((*incoming)->spec_json(), &written).ok());
  for (const v1::VmSpec& known : {(*incoming)->spec(), written}) {
    EXPECT_EQ(known.memory_mb(), 256u);
    EXPECT_EQ(known.cpus(), 1u);
    EXPECT_EQ(known.nics(0).name(), "eth0");
    EXPECT_EQ(known.nics(0).mac(), "02:fe:00:00:00:01");
    EXPECT_EQ(known.nics(1).name(), "eth1");
    EXPECT_THAT(known.nics(1).addresses(), ElementsAre("10.0.2.15/24"));
  }
}

TEST_F(VmNicsOnAHostTest, CardsAreInTheFingerprint) {
  const auto lines = PayloadOf(SpecWith("br0", "02:fe:00:00:00:01")).fingerprint().devices();
  EXPECT_THAT(lines, ::testing::Contains("nic 0 eth0 02-FE-00-00-00-01 bridge br0"));
}

TEST_F(VmNicsOnAHostTest, TheAgentIsToldAtBoot) {
  auto vm = CreateOf(SpecWith("br0"));
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::Status started = Await((*vm)->Start());
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(guests_.Agent((*vm)->id()).CountReceived(bridge::kModifySettings), 1);
  // What the guest has made of them since is its own affair.
  RestartDaemon();
  EXPECT_EQ(guests_.Agent((*vm)->id()).CountReceived(bridge::kModifySettings), 1);
}

TEST_F(VmNicsOnAHostTest, AnAgentThatKnowsNoDhcpIsNotLeftToGuess) {
  v1::VmSpec spec = SpecWith("br0");
  spec.mutable_nics(0)->clear_addresses();
  spec.mutable_nics(0)->clear_gateways();
  spec.mutable_nics(0)->set_dhcp(true);
  auto vm = CreateOf(spec);
  ASSERT_TRUE(vm.ok()) << vm.status();
  guest::FakeAgent& agent = guests_.Agent((*vm)->id());
  agent.dhcp = false;
  const absl::Status started = Await((*vm)->Start());
  EXPECT_THAT(std::string(started.message()), HasSubstr("knows neither DHCP"));
  EXPECT_EQ(agent.CountReceived(bridge::kModifySettings), 0);
}

TEST_F(VmNicsOnAHostTest, TheNextDaemonTellsTheAgentOfAVmThatWasBooting) {
  auto vm = CreateOf(SpecWith("br0"));
  ASSERT_TRUE(vm.ok()) << vm.status();
  const std::string id = (*vm)->id();
  guests_.boot = false;
  auto started = Begin((*vm)->Start());
  Settle();
  guest::FakeAgent& agent = guests_.Agent(id);
  agent.refusals[bridge::kModifySettings] = bridge::kHresultFailed;
  RestartDaemon();
  EXPECT_FALSE(Finish(started).ok());
  EXPECT_EQ(agent.CountReceived(bridge::kModifySettings), 1);
  EXPECT_THAT(EventTypes(), ::testing::Contains("vm.network_failed"));
  EXPECT_EQ((*host_.inventory->Find("web"))->state(), v1::VM_STATE_RUNNING);
  agent.refusals.clear();
  RestartDaemon();
  EXPECT_EQ(agent.CountReceived(bridge::kModifySettings), 2);
  EXPECT_EQ(Row(id).desired_state, "running");
  RestartDaemon();
  EXPECT_EQ(agent.CountReceived(bridge::kModifySettings), 2);
}

}  // namespace
}  // namespace ferry::vm
