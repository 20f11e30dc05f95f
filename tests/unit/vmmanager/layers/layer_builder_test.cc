#include "vmmanager/layers/layer_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/vmmanager/layers/erofs_reader.h"
#include "tests/unit/vmmanager/layers/fsck_erofs.h"
#include "tests/unit/vmmanager/layers/tar_maker.h"

namespace ferry::layers {
namespace {

using ::testing::HasSubstr;

struct Built {
  absl::StatusOr<LayerSource> source;
  std::string image;
};

Built Build(const std::string& tar, Whiteouts whiteouts = Whiteouts::kOci,
            const Limits& limits = {}) {
  const UniqueFd source = MemoryFile(tar);
  const UniqueFd image = MemoryFile();
  FileSource file(source.get(), 0, tar.size());
  Budget budget(limits, image.get());
  Built built{BuildLayer(file, whiteouts, budget, image.get()), ""};
  if (built.source.ok()) built.image = ContentOf(image.get());
  return built;
}

ErofsReader BuildWell(const std::string& tar, Whiteouts whiteouts = Whiteouts::kOci) {
  Built built = Build(tar, whiteouts);
  EXPECT_TRUE(built.source.ok()) << built.source.status();
  if (!built.source.ok()) std::abort();
  return ErofsReader(built.image);
}

std::string Pattern(size_t size) {
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 7 + i / 251);
  return bytes;
}

TEST(LayerBuilderTest, FilesOfEverySizeKeepTheirBytes) {
  TarMaker tar;
  const std::vector<size_t> sizes = {0,    1,    4000, 4031, 4032, 4033,  4095,
                                     4096, 4097, 8191, 8192, 8200, 300000};
  for (const size_t size : sizes) tar.File(absl::StrCat("d/", size), Pattern(size));
  const Built built = Build(tar.Bytes());
  ASSERT_TRUE(built.source.ok()) << built.source.status();
  EXPECT_EQ(FsckSays(built.image), "");
  EXPECT_EQ(built.image.size() % erofs::kBlock, 0u);
  EXPECT_EQ(built.source->diff_id, DigestOf(tar.Bytes()));
  EXPECT_EQ(built.source->entries, sizes.size());
  const ErofsReader reader(built.image);
  for (const size_t size : sizes) {
    const auto file = reader.Find(absl::StrCat("d/", size));
    ASSERT_TRUE(file) << size;
    EXPECT_TRUE(file->data == Pattern(size)) << size;
    EXPECT_EQ(file->inode.mode, S_IFREG | 0644);
    EXPECT_EQ(file->inode.uid, 1000u);
    EXPECT_EQ(file->inode.mtime, 1700000000u);
  }
  // Nobody said anything of the folder.
  EXPECT_EQ(reader.Find("d")->inode.mode, S_IFDIR | 0755);
}

TEST(LayerBuilderTest, AFolderMayHaveMoreNamesThanABlockHolds) {
  TarMaker tar;
  for (int i = 0; i < 2000; ++i) tar.File(absl::StrCat("big/a-rather-long-name-", i), "x");
  for (int i = 0; i < 40; ++i) tar.Folder(absl::StrCat("many/", i));
  const Built built = Build(tar.Bytes());
  ASSERT_TRUE(built.source.ok()) << built.source.status();
  EXPECT_EQ(FsckSays(built.image), "");
  const ErofsReader reader(built.image);
  EXPECT_EQ(reader.Names(*reader.Find("big")).size(), 2002u);
  EXPECT_EQ(reader.Find("many")->inode.links, 42u);
  EXPECT_TRUE(reader.Find("big/a-rather-long-name-1999"));
}

TEST(LayerBuilderTest, LinksAndAttributesAreKept) {
  TarMaker tar;
  tar.File("bin/busybox", "program", 04755).HardLink("bin/ls", "./bin/busybox");
  tar.Symlink("sh", "/bin/busybox").Raw("pipe", '6', 0600, "", "", 0);
  tar.Pax({{"SCHILY.xattr.user.note", "hello"},
           {"SCHILY.xattr.security.capability", "cap"},
           {"SCHILY.xattr.security.selinux", "of the host"},
           {"mtime", "1700000001.25"}});
  tar.File("noted", "x");
  tar.Pax({{"path", std::string(150, 'n') + "/" + std::string(200, 'm')}}).File("short", "long");
  const Built built = Build(tar.Bytes());
  ASSERT_TRUE(built.source.ok()) << built.source.status();
  EXPECT_EQ(FsckSays(built.image), "");
  const ErofsReader reader(built.image);
  EXPECT_EQ(reader.Find("bin/ls")->number, reader.Find("bin/busybox")->number);
  EXPECT_EQ(reader.Find("bin/ls")->inode.links, 2u);
  EXPECT_EQ(reader.Find("bin/ls")->inode.mode, S_IFREG | 04755);
  EXPECT_EQ(reader.Find("sh")->data, "/bin/busybox");
  EXPECT_EQ(reader.Find("pipe")->inode.mode, S_IFIFO | 0600);
  const auto noted = reader.Find("noted");
  const std::map<std::string, std::string> kept = {{"user.note", "hello"},
                                                   {"security.capability", "cap"}};
  EXPECT_EQ(noted->xattrs, kept);
  EXPECT_EQ(noted->inode.mtime_nanoseconds, 250'000'000u);
  EXPECT_TRUE(reader.Find(std::string(150, 'n') + "/" + std::string(200, 'm')));
}

TEST(LayerBuilderTest, TheLastOfSeveralFilesOfAPathIsTheOneThatIsThere) {
  const ErofsReader reader = BuildWell(TarMaker()
                                           .File("a", "first")
                                           .Folder("d", 0700)
                                           .File("a", "second")
                                           .Folder("d", 0711)
                                           .Bytes());
  EXPECT_EQ(reader.Find("a")->data, "second");
  EXPECT_EQ(reader.Find("d")->inode.mode, S_IFDIR | 0711);
}

TEST(LayerBuilderTest, AbsolutePathsBeginAtTheLayersRoot) {
  const ErofsReader reader =
      BuildWell(TarMaker().Folder("/", 0700).File("//etc/passwd", "x").Bytes());
  EXPECT_EQ(reader.Find("etc/passwd")->data, "x");
  EXPECT_EQ(reader.Find("")->inode.mode, S_IFDIR | 0700);
}

TEST(LayerBuilderTest, WhiteoutsBecomeWhatOverlayfsUnderstands) {
  const ErofsReader reader = BuildWell(TarMaker()
                                           .Folder("a")
                                           .File("a/.wh.gone", "")
                                           .File("b/.wh..wh..opq", "")
                                           .Folder("b", 0700)
                                           .File("b/new", "n")
                                           .File(".wh..wh.plnk", "")
                                           .File(".wh.again", "")
                                           .File("again", "here")
                                           .File(".wh.folder", "")
                                           .File("folder/x", "x")
                                           .File("late/x", "x")
                                           .File(".wh.late", "")
                                           .Bytes());
  const auto gone = reader.Find("a/gone");
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->inode.mode, S_IFCHR);
  EXPECT_EQ(gone->inode.block, 0u);  // the device's number
  EXPECT_FALSE(reader.Find("a/.wh.gone"));
  const std::map<std::string, std::string> opaque = {{"trusted.overlay.opaque", "y"}};
  EXPECT_EQ(reader.Find("b")->xattrs, opaque);
  EXPECT_EQ(reader.Find("b")->inode.mode, S_IFDIR | 0700);
  EXPECT_FALSE(reader.Find("b/.wh..wh..opq"));
  EXPECT_FALSE(reader.Find(".wh..wh.plnk"));
  EXPECT_EQ(reader.Find("again")->data, "here");
  // Of what is hidden and made anew nothing shines through, in whichever order that is told.
  EXPECT_EQ(reader.Find("folder")->xattrs, opaque);
  EXPECT_EQ(reader.Find("late")->xattrs, opaque);
}

TEST(LayerBuilderTest, InARootFileSystemWhiteoutsAreFilesLikeOthers) {
  const ErofsReader reader =
      BuildWell(TarMaker().File(".wh.name", "data").Bytes(), Whiteouts::kLiteral);
  EXPECT_EQ(reader.Find(".wh.name")->data, "data");
  EXPECT_FALSE(reader.Find("name"));
}

TEST(LayerBuilderTest, TheSameTarMakesTheSameBytesHoweverItIsPacked) {
  const std::string tar = TarMaker().Folder("b").File("b/x", Pattern(9000)).File("a", "1").Bytes();
  const Built plain = Build(tar);
  ASSERT_TRUE(plain.source.ok());
  for (const char* filter : {"gzip", "zstd"}) {
    const Built packed = Build(Packed(tar, filter));
    ASSERT_TRUE(packed.source.ok()) << packed.source.status();
    EXPECT_TRUE(packed.image == plain.image) << filter;
    EXPECT_EQ(packed.source->diff_id, plain.source->diff_id) << filter;
  }
}

struct Hostile {
  const char* what;
  std::string tar;
  const char* answer;
};

std::vector<Hostile> HostileArchives() {
  const std::string good = TarMaker().File("a", std::string(5000, 'a')).Bytes();
  std::string flipped = good;
  flipped[100] = 'z';  // in the mode: the header's sum is wrong
  const std::string packed = Packed(good, "gzip");
  return {
      {"a way up", TarMaker().File("../etc/passwd", "x").Bytes(), "leads out of the archive"},
      {"a way up further in", TarMaker().File("a/../../b", "x").Bytes(), "leads out"},
      {"a folder up", TarMaker().Folder("a/..").Bytes(), "leads out"},
      {"an absolute hard link", TarMaker().HardLink("a", "/etc/shadow").Bytes(),
       "a hard link to the absolute path"},
      {"a hard link up", TarMaker().HardLink("a", "../../etc/shadow").Bytes(), "leads out"},
      {"a hard link to nothing", TarMaker().HardLink("a", "b").Bytes(), "which is no file"},
      {"a hard link to a folder", TarMaker().Folder("b").HardLink("a", "b").Bytes(),
       "which is no file"},
      {"a hard link to a whiteout", TarMaker().File(".wh.b", "").HardLink("a", "b").Bytes(),
       "which is no file"},
      {"a way through a link", TarMaker().Symlink("l", "/etc").File("l/passwd", "x").Bytes(),
       "as no folder"},
      {"a way through a file", TarMaker().File("f", "x").File("f/g", "x").Bytes(), "as no folder"},
      {"a link in a folder's place", TarMaker().Folder("d").Symlink("d", "/etc").Bytes(),
       "already, as a folder"},
      {"a file as the root", TarMaker().Raw(".", '0', 0644, "", "x", 1).Bytes(), "not a folder"},
      {"a disk", TarMaker().Raw("sda", '4', 0666, "", "", 0).Bytes(), "is a device"},
      {"a smuggled whiteout", TarMaker().Raw("null", '3', 0, "", "", 0).Bytes(), "is a device"},
      {"a whiteout of nothing", TarMaker().File("a/.wh.", "").Bytes(), "whiteout of nothing"},
      {"a whiteout of the folder above", TarMaker().File("a/.wh...", "").Bytes(),
       "whiteout of nothing"},
      {"a whiteout that is a folder", TarMaker().Folder(".wh.a").Bytes(), "but is no file"},
      {"an empty link", TarMaker().Symlink("a", "").Bytes(), "link to nothing"},
      {"an attribute of overlayfs",
       TarMaker().Pax({{"SCHILY.xattr.trusted.overlay.redirect", "/etc"}}).File("a", "x").Bytes(),
       "trusted.overlay.redirect"},
      {"attributes without end",
       TarMaker().Pax({{"SCHILY.xattr.user.a", std::string(3000, 'v')}}).File("a", "x").Bytes(),
       "too long"},
      {"a link that is too long",
       TarMaker().Pax({{"linkpath", std::string(4096, 't')}}).Symlink("a", "short").Bytes(),
       "too long"},
      {"a packing in a packing", Packed(Packed(good, "gzip"), "zstd"), "packed more than once"},
      {"a long name", TarMaker().Pax({{"path", std::string(256, 'n')}}).File("a", "x").Bytes(),
       "too long a name"},
      {"a long path",
       TarMaker()
           .Pax({{"path", std::string(2000, 'n') + "/" + std::string(2200, 'n')}})
           .File("a", "x")
           .Bytes(),
       "too long a path"},
      {"a deep path",
       TarMaker()
           .Pax({{"path",
                  [] {
                    std::string path = "a";
                    for (int i = 0; i < 300; ++i) path += "/a";
                    return path;
                  }()}})
           .File("a", "x")
           .Bytes(),
       "too deep"},
      {"an owner that is none", TarMaker().Pax({{"uid", "4294967295"}}).File("a", "x").Bytes(),
       "no valid owner"},
      {"an end in a file", good.substr(0, 3000), "cut short"},
      {"an end in a header", good.substr(0, 5632 + 100), "cut short"},
      {"an end in the packing", packed.substr(0, packed.size() / 2), "cut short"},
      {"a wrong sum", flipped, "damaged"},
      {"no archive", std::string(10000, 'x'), "damaged"},
  };
}

TEST(LayerBuilderTest, WhatALayerMustNotHoldIsRefusedWithTheReason) {
  for (const Hostile& hostile : HostileArchives()) {
    const Built built = Build(hostile.tar);
    EXPECT_EQ(built.source.status().code(), absl::StatusCode::kInvalidArgument)
        << hostile.what << ": " << built.source.status();
    EXPECT_THAT(std::string(built.source.status().message()), HasSubstr(hostile.answer))
        << hostile.what;
  }
}

TEST(LayerBuilderTest, ARootFileSystemThatEndsBetweenTwoFilesIsRefused) {
  const std::string open = TarMaker().File("a", "x").OpenBytes();
  // Its own zeros are not those that end an archive.
  const std::string zeros = TarMaker().File("a", std::string(2048, '\0')).OpenBytes();
  for (const std::string& tar : {open, zeros, std::string()}) {
    EXPECT_THAT(std::string(Build(tar, Whiteouts::kLiteral).source.status().message()),
                HasSubstr("cut short"));
  }
  // The digest of a layer says whether it is whole.
  EXPECT_TRUE(Build(open, Whiteouts::kOci).source.ok());
}

TEST(LayerBuilderTest, ALinksTargetMayBeAsLongAsAPath) {
  TarMaker tar;
  for (const size_t size : {4032, 4033, 4095}) {
    tar.Pax({{"linkpath", std::string(size, 't')}}).Symlink(absl::StrCat(size), "short");
  }
  const Built built = Build(tar.Bytes());
  ASSERT_TRUE(built.source.ok()) << built.source.status();
  EXPECT_EQ(FsckSays(built.image), "");
  const ErofsReader reader(built.image);
  for (const size_t size : {4032, 4033, 4095}) {
    const auto link = reader.Find(absl::StrCat(size));
    ASSERT_TRUE(link) << size;
    EXPECT_EQ(link->data, std::string(size, 't'));
    EXPECT_EQ(link->inode.mode, S_IFLNK | 0777);
  }
}

TEST(LayerBuilderTest, HolesAreZeros) {
  const Built built = Build(TarMaker().Hole("hole", 100'000).File("after", "x").Bytes());
  ASSERT_TRUE(built.source.ok()) << built.source.status();
  EXPECT_EQ(FsckSays(built.image), "");
  const ErofsReader reader(built.image);
  ASSERT_TRUE(reader.Find("hole"));
  EXPECT_TRUE(reader.Find("hole")->data == std::string(100'000, '\0'));
  EXPECT_EQ(reader.Find("after")->data, "x");
}

TEST(LayerBuilderTest, WhatNobodyWroteDownCountsToo) {
  Limits limits;
  limits.bytes = 1 << 20;
  limits.entries = 20;
  // A few headers that say that gigabytes of zeros follow.
  TarMaker holes;
  for (int i = 0; i < 11; ++i) holes.Hole(absl::StrCat(i), 100'000);
  EXPECT_TRUE(
      absl::IsResourceExhausted(Build(holes.Bytes(), Whiteouts::kOci, limits).source.status()));
  // Folders that follow from a name.
  const std::string deep = TarMaker().File("1/2/3/4/5/6/7/8/9/f", "").File("a/b/c", "").Bytes();
  EXPECT_TRUE(Build(deep, Whiteouts::kOci, limits).source.ok());
  limits.entries = 12;
  EXPECT_TRUE(absl::IsResourceExhausted(Build(deep, Whiteouts::kOci, limits).source.status()));
}

TEST(LayerBuilderTest, MoreThanIsAllowedIsRefused) {
  Limits limits;
  limits.bytes = 1 << 20;
  limits.entries = 10;
  // A few hundred bytes that unpack to more than all that is allowed.
  const std::string bomb =
      Packed(TarMaker().File("zeros", std::string(4 << 20, '\0')).Bytes(), "gzip");
  EXPECT_LT(bomb.size(), 10000u);
  TarMaker many;
  for (int i = 0; i < 11; ++i) many.File(absl::StrCat(i), "");
  // A header that announces what never comes.
  const std::string huge = TarMaker().Raw("huge", '0', 0644, "", "", uint64_t{1} << 32).Bytes();
  for (const std::string& tar : {bomb, many.Bytes(), huge}) {
    EXPECT_EQ(Build(tar, Whiteouts::kOci, limits).source.status().code(),
              absl::StatusCode::kResourceExhausted);
  }
}

// Damaged archives are refused or taken, but never more than that.
TEST(LayerBuilderTest, NoDamageGetsTheBetterOfIt) {
  const std::string good = TarMaker()
                               .Folder("d")
                               .File("d/f", Pattern(700))
                               .Pax({{"SCHILY.xattr.user.note", "hello"}})
                               .File("d/.wh.g", "")
                               .Symlink("l", "d/f")
                               .HardLink("h", "d/f")
                               .Hole("z", 5000)
                               .Bytes();
  std::mt19937 random(1);
  Limits limits;
  limits.bytes = 1 << 20;
  int taken = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string tar = good;
    for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
      tar[random() % tar.size()] = static_cast<char>(random());
    }
    // Otherwise most damage is seen at once.
    if (random() % 8 != 0) RepairSums(&tar);
    if (random() % 4 == 0) tar.resize(random() % tar.size());
    const Built built = Build(tar, Whiteouts::kOci, limits);
    if (built.source.ok() && ++taken % 20 == 0) {
      EXPECT_EQ(FsckSays(built.image), "") << round;
    }
  }
  // Most of it is seen, or of names and owners.
  EXPECT_GT(taken, 400);
}

}  // namespace
}  // namespace ferry::layers
