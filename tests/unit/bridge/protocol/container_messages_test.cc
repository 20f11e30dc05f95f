#include "bridge/protocol/container_messages.h"

#include <gtest/gtest.h>

namespace ferry::bridge {
namespace {

// What a host of hcsshim sends, in literals.

TEST(ContainerMessagesTest, ContainerConfig) {
  const auto config = Decode<ContainerConfig>(
      R"({"SchemaVersion":{"Major":2,"Minor":1},"OciBundlePath":"/run/gcs/c/1",)"
      R"("OciSpecification":{"ociVersion":"1.0.2"},"ScratchDirPath":"/run/gcs/c/1/scratch"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->oci_bundle_path, "/run/gcs/c/1");
  EXPECT_EQ(config->oci_specification, R"({"ociVersion":"1.0.2"})");
  EXPECT_EQ(config->scratch_dir_path, "/run/gcs/c/1/scratch");
  const auto again = Decode<ContainerConfig>(Encode(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->oci_specification, config->oci_specification);
}

TEST(ContainerMessagesTest, AContainerConfigIsRefusedWithTheMembersName) {
  const auto refused = [](const std::string& text, const std::string& member) {
    const auto config = Decode<ContainerConfig>(text);
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_NE(std::string(config.status().message()).find(member), std::string::npos)
        << config.status();
  };
  const std::string schema = R"({"SchemaVersion":{"Major":2,"Minor":1})";
  refused(R"({"SchemaVersion":{"Major":2,"Minor":0},"OciBundlePath":"/b","OciSpecification":{}})",
          "Major");
  refused(R"({"OciBundlePath":"/b","OciSpecification":{}})", "SchemaVersion");
  refused(schema + R"(,"OciSpecification":{}})", "OciBundlePath");
  refused(schema + R"(,"OciBundlePath":"b","OciSpecification":{}})", "OciBundlePath");
  refused(schema + R"(,"OciBundlePath":"/run/gcs/c/../../etc","OciSpecification":{}})",
          "OciBundlePath");
  refused(schema + R"(,"OciBundlePath":"/b"})", "OciSpecification");
  refused(schema + R"(,"OciBundlePath":"/b","OciSpecification":"text"})", "OciSpecification");
  refused(schema + R"(,"OciBundlePath":"/b","OciSpecification":{},"ScratchDirPath":"/a/../b"})",
          "ScratchDirPath");
}

TEST(ContainerMessagesTest, MappedVirtualDisk) {
  const auto disk = Decode<MappedVirtualDisk>(
      R"({"MountPath":"/run/layers/1","Lun":3,"Controller":1,"ReadOnly":true,)"
      R"("Options":["noatime"],"EnsureFilesystem":true,"Filesystem":"erofs"})");
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(disk->mount_path, "/run/layers/1");
  EXPECT_EQ(disk->controller, 1u);
  EXPECT_EQ(disk->lun, 3u);
  EXPECT_TRUE(disk->read_only);
  EXPECT_TRUE(disk->ensure_filesystem);
  EXPECT_EQ(disk->filesystem, "erofs");
  EXPECT_EQ(disk->options, std::vector<std::string>{"noatime"});
  EXPECT_EQ(Encode(*Decode<MappedVirtualDisk>(Encode(*disk))), Encode(*disk));
}

TEST(ContainerMessagesTest, ADisksMembersThatAreNotSupportedAreRefused) {
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","Encrypted":true})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","VerityInfo":{}})").ok());
  EXPECT_TRUE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","VerityInfo":null})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","BlockDev":true})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","Partition":1})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","Lun":16384})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","Controller":256})").ok());
  EXPECT_FALSE(Decode<MappedVirtualDisk>(R"({"Lun":1})").ok());
  EXPECT_TRUE(Decode<MappedVirtualDisk>(R"({"MountPath":"/m","Partition":0})").ok());
}

TEST(ContainerMessagesTest, CombinedLayers) {
  const auto layers = Decode<CombinedLayers>(
      R"({"ContainerRootPath":"/run/c/rootfs","Layers":[{"Id":"b","Path":"/run/layers/2"},)"
      R"({"Id":"a","Path":"/run/layers/1"}],"ScratchPath":"/run/c/scratch"})");
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_EQ(layers->layers.size(), 2u);
  EXPECT_EQ(layers->layers[0].path, "/run/layers/2");
  EXPECT_EQ(layers->layers[1].id, "a");
  EXPECT_EQ(layers->scratch_path, "/run/c/scratch");
  EXPECT_EQ(Encode(*Decode<CombinedLayers>(Encode(*layers))), Encode(*layers));
  CombinedLayers many = *layers;
  many.layers.resize(kMaxLayers + 1, many.layers[0]);
  EXPECT_FALSE(Decode<CombinedLayers>(Encode(many)).ok());
}

TEST(ContainerMessagesTest, ConstraintsLimitsAndDevices) {
  const auto constraints =
      Decode<ContainerConstraints>(R"({"Windows":{},"Linux":{"memory":{"limit":1048576}}})");
  ASSERT_TRUE(constraints.ok()) << constraints.status();
  EXPECT_EQ(constraints->linux_resources, R"({"memory":{"limit":1048576}})");
  EXPECT_FALSE(Decode<ContainerConstraints>(R"({"Windows":{}})").ok());
  // hcsshim's hosts send no settings.
  EXPECT_EQ(Decode<PodCgroupMemoryLimit>("")->memory_limit_in_bytes, 0u);
  EXPECT_EQ(
      Decode<PodCgroupMemoryLimit>(R"({"MemoryLimitInBytes":4294967296})")->memory_limit_in_bytes,
      4294967296u);
  EXPECT_FALSE(Decode<PodCgroupMemoryLimit>(R"({"MemoryLimitInBytes":-1})").ok());
  const auto device = Decode<ScsiDevice>(R"({"Controller":2,"Lun":7})");
  EXPECT_EQ(device->controller, 2u);
  EXPECT_EQ(device->lun, 7u);
}

TEST(ContainerMessagesTest, PathsOfTheGuest) {
  const auto ok = [](const std::string& path) { return CheckGuestPath("p", path).ok(); };
  EXPECT_TRUE(ok("/run/gcs/c/1"));
  EXPECT_TRUE(ok("/a..b"));
  for (const char* bad :
       {"", "/", "a", "/a/", "/a//b", "/a/.", "/../a", "/a/../b", "/a,b", "/a:b", "/a\\b"}) {
    EXPECT_FALSE(ok(bad)) << bad;
  }
  EXPECT_FALSE(ok(std::string("/a\0b", 4)));
  EXPECT_TRUE(ok("/" + std::string(kMaxGuestPath - 1, 'a')));
  EXPECT_FALSE(ok("/" + std::string(kMaxGuestPath, 'a')));
}

TEST(ContainerMessagesTest, ContainerIds) {
  EXPECT_TRUE(IsContainerId(std::string(32, '0') + std::string(32, 'f')));
  EXPECT_TRUE(IsContainerId(std::string(32, 'A') + std::string(32, 'F')));
  EXPECT_FALSE(IsContainerId(std::string(63, 'a')));
  EXPECT_FALSE(IsContainerId(std::string(65, 'a')));
  EXPECT_FALSE(IsContainerId(std::string(64, 'g')));
  EXPECT_FALSE(IsContainerId(std::string(62, 'a') + ".."));
  EXPECT_FALSE(IsContainerId(kNullGuid));
}

TEST(ContainerMessagesTest, PropertiesComeBackAsTheyWere) {
  ContainerProperties properties;
  EXPECT_EQ(Encode(properties), "{}");
  properties.state = ContainerState::kPaused;
  properties.process_list = {{7, false}, {9, true}};
  ContainerMetrics metrics;
  metrics.memory_usage = 1;
  metrics.memory_max = 2;
  metrics.memory_failcnt = 3;
  metrics.memory_anonymous = 4;
  metrics.memory_file = 5;
  metrics.oom_kills = 6;
  metrics.cpu_total = 7;
  metrics.cpu_user = 8;
  metrics.cpu_kernel = 9;
  metrics.cpu_periods = 10;
  metrics.cpu_throttled_periods = 11;
  metrics.cpu_throttled_time = 12;
  metrics.pids_current = 13;
  metrics.pids_limit = 14;
  metrics.io.push_back({8, 16, 15, 16, 17, 18});
  properties.metrics = metrics;
  const std::string text = Encode(properties);
  EXPECT_NE(text.find(R"("memory":{"cache":5,"rss":4,"usage":{"limit":18446744073709551615,)"
                      R"("usage":1,"max":2,"failcnt":3}})"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(R"("State":"paused")"), std::string::npos) << text;
  const auto back = Decode<ContainerProperties>(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Encode(*back), text);
  EXPECT_EQ(back->metrics->memory_limit, ContainerMetrics::kNoLimit);
  EXPECT_EQ(back->metrics->io[0].writes, 18u);
  EXPECT_FALSE(Decode<ContainerProperties>(R"({"State":"flying"})").ok());
}

TEST(ContainerMessagesTest, QueriesAskForWhatTheyName) {
  EXPECT_TRUE(Decode<PropertyQuery>(R"({"PropertyTypes":["Statistics"]})")->Asks("Statistics"));
  EXPECT_FALSE(Decode<PropertyQuery>(R"({"PropertyTypes":["Statistics"]})")->Asks("State"));
  EXPECT_FALSE(Decode<PropertyQuery>("")->Asks("State"));
  EXPECT_FALSE(Decode<PropertyQuery>("[]").ok());
}

TEST(ContainerMessagesTest, MappedDirectory) {
  const auto directory = Decode<MappedDirectory>(
      R"({"MountPath":"/run/gcs/s/0","ShareName":"ferry-share-0","ReadOnly":true})");
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(directory->mount_path, "/run/gcs/s/0");
  EXPECT_EQ(directory->share_name, "ferry-share-0");
  EXPECT_TRUE(directory->read_only);
  EXPECT_EQ(Encode(*Decode<MappedDirectory>(Encode(*directory))), Encode(*directory));
  const std::string long_name(kMaxShareName + 1, 'a');
  for (const std::string& bad :
       {std::string(R"({"MountPath":"/m"})"), std::string(R"({"MountPath":"/m","ShareName":""})"),
        std::string(R"({"MountPath":"/m","ShareName":"a b"})"),
        "{\"MountPath\":\"/m\",\"ShareName\":\"" + long_name + "\"}",
        std::string(R"({"MountPath":"/m/..","ShareName":"a"})"),
        std::string(R"({"MountPath":"/m","ShareName":"a","Port":564})")}) {
    EXPECT_FALSE(Decode<MappedDirectory>(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace ferry::bridge
