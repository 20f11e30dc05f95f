#include "tools/ferryctl/units.h"

#include <gtest/gtest.h>

#include "tools/ferryctl/disk_spec.h"

namespace ferry::ctl {
namespace {

TEST(ParseSize, IsStrict) {
  EXPECT_EQ(*ParseSize("256M"), 256u << 20);
  EXPECT_EQ(*ParseSize("1G"), 1u << 30);
  EXPECT_EQ(*ParseSize("64K"), 65536u);
  EXPECT_EQ(*ParseSize("0"), 0u);
  for (const char* bad : {"", "M", "-1", "1.5G", "1GB", "1 G", " 1G", "1g", "0x10",
                          "99999999999999999999", "99999999999T"}) {
    EXPECT_FALSE(ParseSize(bad).ok()) << bad;
  }
}

TEST(ParseDurationMs, NeedsAUnit) {
  EXPECT_EQ(*ParseDurationMs("10ms"), 10u);
  EXPECT_EQ(*ParseDurationMs("2s"), 2000u);
  EXPECT_EQ(*ParseDurationMs("1m"), 60000u);
  for (const char* bad : {"", "10", "ms", "-1s", "1h", "1 s", "99999999m"}) {
    EXPECT_FALSE(ParseDurationMs(bad).ok()) << bad;
  }
}

TEST(ParseSignal, TakesNamesAndNumbers) {
  EXPECT_EQ(*ParseSignal("TERM"), 15u);
  EXPECT_EQ(*ParseSignal("SIGKILL"), 9u);
  EXPECT_EQ(*ParseSignal("int"), 2u);
  EXPECT_EQ(*ParseSignal("15"), 15u);
  for (const char* bad : {"", "0", "65", "-9", "NOPE", "SIG"}) {
    EXPECT_FALSE(ParseSignal(bad).ok()) << bad;
  }
}

TEST(Format, IsForPeople) {
  EXPECT_EQ(FormatSize(512), "512 B");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(256u << 20), "256 MiB");
  EXPECT_EQ(FormatMs(9.25), "9.2 ms");
  EXPECT_EQ(FormatMs(850), "850 ms");
  EXPECT_EQ(FormatMs(12300), "12.3 s");
  EXPECT_EQ(FormatMs(245000), "4 min 5 s");
  EXPECT_EQ(FormatAge(1000), "1 second");
  EXPECT_EQ(FormatAge(3 * 3600 * 1000), "3 hours");
  EXPECT_EQ(FormatTime(0), "-");
  EXPECT_EQ(FormatTime(1700000000000), "2023-11-14T22:13:20Z");
}

TEST(ParseDisk, ReadsAllParts) {
  const v1::DiskSpec disk = *ParseDisk("name=data,file=/d.img,format=raw,ro");
  EXPECT_EQ(disk.name(), "data");
  EXPECT_EQ(disk.file(), "/d.img");
  EXPECT_EQ(disk.format(), "raw");
  EXPECT_TRUE(disk.read_only());
  for (const char* bad : {"", "name=a", "file=/x", "name=a,file=/x,format=vmdk",
                          "name=a,file=/x,rw", "name=a,file=/x,"}) {
    EXPECT_FALSE(ParseDisk(bad).ok()) << bad;
  }
}

TEST(ParseShare, ReadsFolderAndMode) {
  EXPECT_EQ(ParseShare("/a:b")->host_path(), "/a:b");
  EXPECT_FALSE(ParseShare("/a")->read_only());
  EXPECT_TRUE(ParseShare("/a:ro")->read_only());
  EXPECT_EQ(ParseShare("/a:ro")->host_path(), "/a");
  EXPECT_EQ(ParseShare("/a:rw")->host_path(), "/a");
  for (const char* bad : {"", "a", ":ro", "./a"}) EXPECT_FALSE(ParseShare(bad).ok()) << bad;
}

}  // namespace
}  // namespace ferry::ctl
