#include "vmmanager/qemu/migration_settings_mirror.h"

#include <gtest/gtest.h>

#include <boost/json/array.hpp>

#include "vmmanager/qemu/qemu_migration_settings.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

QemuCapabilities Qemu() {
  QemuCapabilities qemu;
  qemu.migration = {"events", "return-path", "multifd"};
  return qemu;
}

json::object Of(const char* name, bool state) { return {{"capability", name}, {"state", state}}; }

TEST(MigrationSettingsMirrorTest, NothingIsKnownOfAnAdoptedQemu) {
  const MigrationSettingsMirror mirror;
  EXPECT_EQ(mirror.CapabilityChanges(PlainCapabilities(Qemu())), PlainCapabilities(Qemu()));
  EXPECT_EQ(mirror.ParameterChanges(ParametersFor({})), ParametersFor({}));
}

TEST(MigrationSettingsMirrorTest, OnlyWhatDiffersIsSent) {
  MigrationSettingsMirror mirror;
  mirror.NoteCapabilities(NoCapabilities(Qemu()));
  const json::object changes = mirror.CapabilityChanges(CapabilitiesFor({}, Qemu()));
  EXPECT_EQ(changes.at("capabilities").as_array(),
            (json::array{Of("events", true), Of("return-path", true)}));
  mirror.NoteCapabilities(changes);
  EXPECT_TRUE(mirror.CapabilityChanges(CapabilitiesFor({}, Qemu())).empty());
  EXPECT_EQ(mirror.CapabilityChanges(PlainCapabilities(Qemu())).at("capabilities").as_array(),
            json::array{Of("return-path", false)});

  mirror.NoteParameters({{"downtime-limit", 1}, {"max-bandwidth", 7}});
  const json::object wanted = {{"downtime-limit", 20}, {"max-bandwidth", 7}};
  EXPECT_EQ(mirror.ParameterChanges(wanted), (json::object{{"downtime-limit", 20}}));
  mirror.NoteParameters({{"downtime-limit", 20}});
  EXPECT_TRUE(mirror.ParameterChanges(wanted).empty());
}

TEST(MigrationSettingsMirrorTest, WhatSomebodyElseHasSetIsSetBack) {
  MigrationSettingsMirror mirror;
  mirror.NoteCapabilities(PlainCapabilities(Qemu()));
  mirror.NoteParameters(ParametersFor({}));
  mirror.ReadCapabilities(json::array{Of("events", true), Of("multifd", true)});
  EXPECT_EQ(mirror.CapabilityChanges(PlainCapabilities(Qemu())).at("capabilities").as_array(),
            json::array{Of("multifd", false)});
  mirror.ReadParameters(json::object{{"max-bandwidth", 1}, {"tls-creds", ""}});
  EXPECT_EQ(mirror.ParameterChanges(ParametersFor({})).size(), 1u);
  // What makes no sense says nothing.
  mirror.ReadCapabilities(json::array{"multifd", json::object{{"state", 1}}});
  mirror.ReadParameters(json::array{});
  EXPECT_EQ(mirror.ParameterChanges(ParametersFor({})).size(), 1u);
}

TEST(MigrationSettingsMirrorTest, AnOlderQemuIsNotToldToTurnOffWhatItLacks) {
  MigrationSettingsMirror mirror;
  mirror.ReadCapabilities(json::array{Of("events", false)});
  EXPECT_EQ(mirror.CapabilityChanges(PlainCapabilities(Qemu())).at("capabilities").as_array(),
            json::array{Of("events", true)});
}

TEST(MigrationSettingsMirrorTest, WhatIsUncertainIsSentAgain) {
  MigrationSettingsMirror mirror;
  mirror.NoteCapabilities(CapabilitiesFor({}, Qemu()));
  mirror.NoteParameters(ParametersFor({}));
  mirror.Forget();
  EXPECT_FALSE(mirror.CapabilityChanges(CapabilitiesFor({}, Qemu())).empty());
  EXPECT_EQ(mirror.ParameterChanges(ParametersFor({})), ParametersFor({}));
}

}  // namespace
}  // namespace ferry::vm
