#include "vmmanager/saving/qemu_img_output.h"

#include <gmock/gmock.h>

#include "vmmanager/containers/empty_qcow2.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

constexpr char kOverlay[] = R"({
    "backing-filename-format": "raw",
    "virtual-size": 1073741824,
    "filename": "/d/disk.a.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 200704,
    "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "corrupt": false}},
    "full-backing-filename": "/d/disk.raw",
    "backing-filename": "disk.raw",
    "dirty-flag": false
})";

std::string With(const std::string& from, const std::string& to) {
  std::string text = kOverlay;
  text.replace(text.find(from), from.size(), to);
  return text;
}

TEST(QemuImgOutputTest, AnOverlayNamesWhatIsBelow) {
  const auto image = ParseImageInfo(kOverlay);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->format, "qcow2");
  EXPECT_EQ(image->bytes, 1073741824u);
  EXPECT_EQ(image->below, "/d/disk.raw");
  EXPECT_EQ(image->below_format, "raw");
}

TEST(QemuImgOutputTest, OneThatStandsAloneNamesNothing) {
  const auto image = ParseImageInfo(R"({"virtual-size": 5, "format": "raw"})");
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->below, "");
  EXPECT_EQ(image->below_format, "");
}

TEST(QemuImgOutputTest, WhatHasItsDataElsewhereOrHiddenIsRefused) {
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"corrupt\": false", "\"corrupt\": true"},
           {"\"corrupt\": false", "\"data-file\": \"/etc/shadow\""},
           {"\"dirty-flag\": false", "\"encrypted\": true"},
           {"\"/d/disk.raw\"", "\"nbd://h/x\""},
           {"\"/d/disk.raw\"", "\"json:{}\""}}) {
    EXPECT_EQ(ParseImageInfo(With(from, to)).status().code(), absl::StatusCode::kFailedPrecondition)
        << to;
  }
  for (const char* damaged : {"", "[]", "{", "7", "null"}) {
    EXPECT_FALSE(ParseImageInfo(damaged).ok()) << damaged;
  }
}

TEST(QemuImgOutputTest, ProgressIsTheLastThatIsSaid) {
  EXPECT_EQ(ParseConvertProgress("    (0.00/100%)\r    (12.50/100%)\r"), 0.125);
  EXPECT_EQ(ParseConvertProgress("    (100.00/100%)\r\n"), 1.0);
  EXPECT_EQ(ParseConvertProgress("    (999/100%)\r"), 1.0);
  for (const char* none : {"", "(", "/100%)", "(x/100%)", "5/100%)", "(12.50/100"}) {
    EXPECT_EQ(ParseConvertProgress(none), std::nullopt) << none;
  }
}

TEST(QemuImgOutputTest, WhatFailedIsSaidWithoutTheProgress) {
  EXPECT_EQ(WithoutProgress("    (0.00/100%)\r    (1.01/100%)\rqemu-img: No space left\n"),
            "qemu-img: No space left");
  EXPECT_EQ(WithoutProgress("    (0.00/100%)\r"), "");
  EXPECT_EQ(WithoutProgress("qemu-img: (1/100%) is no file\n"), "qemu-img: (1/100%) is no file");
}

TEST(QemuImgOutputTest, TheTableOfAnEmptyDiskIsFound) {
  const auto table = ParseQcow2Table(EmptyQcow2(uint64_t{1} << 30).substr(0, kQcow2TableHead));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->entries, 2u);
  EXPECT_EQ(table->offset, 3u * 65536);
  EXPECT_FALSE(table->has_snapshots);
  EXPECT_FALSE(ParseQcow2Table(std::string(kQcow2TableHead, '\0')).ok());
  EXPECT_FALSE(ParseQcow2Table("QFI\xfb").ok());
  std::string huge = EmptyQcow2(uint64_t{1} << 30).substr(0, kQcow2TableHead);
  huge[36] = '\x7f';
  EXPECT_THAT(ParseQcow2Table(huge).status().message(), HasSubstr("damaged"));
}

}  // namespace
}  // namespace ferry::vm
