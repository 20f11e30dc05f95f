#include "vmmanager/layers/image_builder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "tests/unit/bridge/task_test.h"
#include "tests/unit/vmmanager/layers/erofs_reader.h"
#include "tests/unit/vmmanager/layers/memory_file.h"
#include "tests/unit/vmmanager/layers/tar_maker.h"
#include "vmmanager/layers/disk_space.h"

namespace ferry::layers {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Hex(const std::string& digest) {
  return std::string(absl::StripPrefix(digest, "sha256:"));
}

// An image's documents, and how they lie in an archive.
struct Sample {
  std::vector<std::string> layers = {TarMaker().File("a", "1").File("b", "1").Bytes(),
                                     TarMaker().File(".wh.a", "").File("c", "2").Bytes()};
  std::string architecture = "amd64";
  std::string layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
  std::vector<std::string> diff_ids;  // the right ones
  bool pack = true;

  Sample() {
    for (const std::string& layer : layers) diff_ids.push_back(DigestOf(layer));
  }

  std::string Config() const {
    return absl::StrCat(
        R"({"os":"linux","architecture":")", architecture,
        R"(","config":{"Entrypoint":["/bin/c"],"Cmd":["-x"],"Env":["A=b"],"WorkingDir":"/w",)",
        R"("User":"7:8","StopSignal":"SIGINT","Labels":{"k":"v"},"Volumes":null},)",
        R"("rootfs":{"type":"layers","diff_ids":[")", absl::StrJoin(diff_ids, "\",\""), R"("]}})");
  }
  std::string Blob(size_t i) const { return pack ? Packed(layers[i], "gzip") : layers[i]; }
  std::string Manifest() const {
    std::vector<std::string> described;
    for (size_t i = 0; i < layers.size(); ++i) {
      described.push_back(absl::StrCat(R"({"mediaType":")", layer_type, R"(","digest":")",
                                       DigestOf(Blob(i)), R"(","size":1})"));
    }
    return absl::StrCat(R"({"schemaVersion":2,"config":{"digest":")", DigestOf(Config()),
                        R"("},"layers":[)", absl::StrJoin(described, ","), "]}");
  }
  static std::string Index(const std::string& manifest, const std::string& more = "") {
    return absl::StrCat(R"({"schemaVersion":2,"manifests":[{"digest":")", DigestOf(manifest),
                        R"("})", more, "]}");
  }
  static std::string BlobName(const std::string& bytes) {
    return absl::StrCat("blobs/sha256/", Hex(DigestOf(bytes)));
  }
  TarMaker Blobs() const {
    TarMaker tar;
    tar.File("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
    for (size_t i = 0; i < layers.size(); ++i) tar.File(BlobName(Blob(i)), Blob(i));
    tar.File(BlobName(Config()), Config()).File(BlobName(Manifest()), Manifest());
    return tar;
  }
  std::string Oci() const { return Blobs().File("./index.json", Index(Manifest())).Bytes(); }
  std::string Docker() const {
    return TarMaker()
        .File("one/layer.tar", layers[0])
        .File("kept/layer.tar", layers[1])
        .Symlink("two/layer.tar", "../kept/layer.tar")
        .File(Hex(DigestOf(Config())) + ".json", Config())
        .File("manifest.json", absl::StrCat(R"([{"Config":")", Hex(DigestOf(Config())),
                                            R"(.json","RepoTags":["web:1"],)",
                                            R"("Layers":["one/layer.tar","two/layer.tar"]}])"))
        .Bytes();
  }
};

class ImageBuilderTest : public testing::Test {
 protected:
  absl::StatusOr<BuiltImage> Build(const std::string& archive, ArchiveKind kind = ArchiveKind::kAny,
                                   const Limits& limits = {}) {
    for (const auto& old : std::filesystem::directory_iterator(folder_.path())) {
      std::filesystem::remove(old.path());
    }
    const UniqueFd source = MemoryFile(archive);
    told_.clear();
    return BuildImage(source.get(), kind, limits, out_.get(),
                      [this](size_t done, size_t of) { told_.emplace_back(done, of); });
  }

  ErofsReader Layer(const std::string& file) {
    std::ifstream in(folder_.path() + "/" + file, std::ios::binary);
    std::stringstream bytes;
    bytes << in.rdbuf();
    return ErofsReader(bytes.str());
  }

  TestFolder folder_;
  UniqueFd out_{::open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  std::vector<std::pair<size_t, size_t>> told_;
};

TEST_F(ImageBuilderTest, EveryKindOfArchiveIsFoundOutAndTakenApart) {
  const Sample sample;
  for (const auto& [archive, kind] :
       {std::pair{sample.Oci(), ArchiveKind::kOci},
        std::pair{sample.Docker(), ArchiveKind::kDocker},
        std::pair{Packed(sample.Oci(), "zstd"), ArchiveKind::kOci},
        std::pair{Packed(sample.Docker(), "gzip"), ArchiveKind::kDocker}}) {
    const auto image = Build(archive);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->kind, kind);
    ASSERT_EQ(image->layers.size(), 2u);
    EXPECT_EQ(image->layers[0].diff_id, sample.diff_ids[0]);
    EXPECT_EQ(image->layers[1].diff_id, sample.diff_ids[1]);
    EXPECT_TRUE(Layer(image->layers[0].file).Find("b"));
    EXPECT_EQ(Layer(image->layers[1].file).Find("a")->inode.mode, S_IFCHR);
    EXPECT_THAT(image->config.entrypoint, ElementsAre("/bin/c"));
    EXPECT_THAT(image->config.cmd, ElementsAre("-x"));
    EXPECT_THAT(image->config.env, ElementsAre("A=b"));
    EXPECT_EQ(image->config.working_dir, "/w");
    EXPECT_EQ(image->config.user, "7:8");
    EXPECT_EQ(image->config.stop_signal, "SIGINT");
    EXPECT_EQ(image->config.labels.at("k"), "v");
    EXPECT_THAT(told_, ElementsAre(std::pair{0u, 2u}, std::pair{1u, 2u}, std::pair{2u, 2u}));
    // What it is told in survives.
    const auto again = BuiltImageFromJson(ToJsonText(*image), {});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->config, image->config);
    EXPECT_EQ(again->layers[1].diff_id, image->layers[1].diff_id);
  }
}

TEST_F(ImageBuilderTest, AnythingElseIsARootFileSystem) {
  const auto image = Build(Packed(TarMaker().File("bin/sh", "x").Bytes(), "gzip"));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->kind, ArchiveKind::kRootfs);
  ASSERT_EQ(image->layers.size(), 1u);
  EXPECT_TRUE(Layer(image->layers[0].file).Find("bin/sh"));
  // Also one that looks like another kind, if that is wanted.
  const auto forced = Build(Sample().Oci(), ArchiveKind::kRootfs);
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_TRUE(Layer(forced->layers[0].file).Find("index.json"));
}

TEST_F(ImageBuilderTest, AnIndexMayHoldTheImageForOtherMachinesToo) {
  const Sample sample;
  const std::string other =
      absl::StrCat(R"(,{"digest":")", DigestOf("arm"),
                   R"(","platform":{"os":"linux","architecture":"arm64"}},)", R"({"digest":")",
                   DigestOf("what"), R"(","platform":{"os":"unknown","architecture":"unknown"}})");
  const std::string inner = Sample::Index(sample.Manifest(), other);
  const std::string outer =
      absl::StrCat(R"({"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json",)",
                   R"("digest":")", DigestOf(inner), R"("}]})");
  const auto image =
      Build(sample.Blobs().File(Sample::BlobName(inner), inner).File("index.json", outer).Bytes());
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->layers.size(), 2u);
}

TEST_F(ImageBuilderTest, WhatIsNotWholeOrDoesNotFitIsRefusedWithTheReason) {
  const Sample good;
  Sample wrong_diff;
  wrong_diff.diff_ids[1] = DigestOf("something else");
  Sample few;
  few.diff_ids.pop_back();
  Sample arm;
  arm.architecture = "arm64";
  Sample foreign;
  foreign.layer_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
  Sample escaping;
  escaping.layers[1] = TarMaker().File("../x", "x").Bytes();
  escaping.diff_ids[1] = DigestOf(escaping.layers[1]);
  std::string flipped = good.Oci();
  flipped[flipped.find("Entrypoint")] = 'X';
  const std::string two =
      Sample::Index(good.Manifest(),
                    absl::StrCat(R"(,{"digest":")", DigestOf("x"),
                                 R"(","annotations":{"org.opencontainers.image.ref.name":"v2"}})"));
  const std::string lost = TarMaker()
                               .File("oci-layout", "{}")
                               .File("index.json", Sample::Index(good.Manifest()))
                               .Bytes();
  const std::string loop_index = R"({"manifests":[{"digest":"no digest"}]})";
  std::string deep = "[";
  for (int i = 0; i < 2000; ++i) deep += "[";
  struct Case {
    std::string archive;
    const char* answer;
  };
  for (const Case& c : {
           Case{wrong_diff.Oci(), "layer 2 of 2 unpacks to the digest"},
           Case{wrong_diff.Docker(), "layer 2 of 2 unpacks to the digest"},
           Case{few.Oci(), "it has 2 layers, and its configuration names 1"},
           Case{arm.Oci(), "for linux/arm64"},
           Case{arm.Docker(), "for linux/arm64"},
           Case{foreign.Oci(), "not understood"},
           Case{escaping.Oci(), "layer 2 of 2: \"../x\" leads out of the archive"},
           Case{flipped, "the image's configuration has the digest"},
           Case{good.Blobs().File("index.json", two).Bytes(), "several images"},
           Case{lost, "does not hold \"blobs/sha256/"},
           Case{good.Blobs().File("index.json", loop_index).Bytes(), "no SHA-256 digest"},
           Case{good.Blobs().File("index.json", "{}").Bytes(), "names no image"},
           Case{good.Blobs().File("index.json", "not JSON").Bytes(), "no JSON"},
           Case{good.Blobs().File("index.json", deep).Bytes(), "no JSON"},
           Case{TarMaker().File("manifest.json", "[]").Bytes(), "0 images"},
           Case{TarMaker().File("manifest.json", R"([{"Config":"../x","Layers":[]}])").Bytes(),
                "does not hold \"../x\""},
           Case{TarMaker()
                    .Symlink("a", "b")
                    .Symlink("b", "a")
                    .File("manifest.json", R"([{"Config":"a","Layers":[]}])")
                    .Bytes(),
                "does not hold \"a\""},
           Case{TarMaker()
                    .File("c", good.Config())
                    .Hole("l", 1 << 20)
                    .File("manifest.json", R"([{"Config":"c","Layers":["l","l"]}])")
                    .Bytes(),
                "\"l\" has holes"},
           Case{TarMaker().Bytes(), "holds no files"},
           Case{"\xfd"
                "7zXZ",
                "use a plain tar, gzip or zstd"},
           Case{Packed(good.Oci(), "gzip").substr(0, 200), "cut short"},
       }) {
    const auto image = Build(c.archive);
    EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << image.status();
    EXPECT_THAT(std::string(image.status().message()), HasSubstr(c.answer));
  }
}

TEST_F(ImageBuilderTest, OfADiskThatIsTooFullNothingMoreIsTaken) {
  const Sample sample;
  Limits limits;
  limits.reserve = uint64_t{1} << 60;
  for (const std::string& archive : {sample.Oci(), Packed(sample.Oci(), "gzip")}) {
    const absl::Status refused = Build(archive, ArchiveKind::kAny, limits).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("disk is too full"));
  }
  EXPECT_TRUE(absl::IsUnavailable(WriteError(ENOSPC, "cannot write")));
  EXPECT_TRUE(absl::IsUnavailable(WriteError(EDQUOT, "cannot write")));
  EXPECT_TRUE(absl::IsResourceExhausted(WriteError(EFBIG, "cannot write")));
  EXPECT_FALSE(absl::IsUnavailable(WriteError(EIO, "cannot write")));
}

TEST_F(ImageBuilderTest, OnlyAResultThatItCanHaveMadeIsTaken) {
  BuiltImage image;
  image.kind = ArchiveKind::kOci;
  EXPECT_FALSE(BuiltImageFromJson(ToJsonText(image), {}).ok());
  image.layers = {{"layer-0", DigestOf("0"), 1, 1}, {"layer-1", DigestOf("1"), 1, 1}};
  EXPECT_TRUE(BuiltImageFromJson(ToJsonText(image), {}).ok());
  Limits limits;
  limits.layers = 1;
  EXPECT_FALSE(BuiltImageFromJson(ToJsonText(image), limits).ok());
  image.layers[1].file = "layer-0";
  EXPECT_FALSE(BuiltImageFromJson(ToJsonText(image), {}).ok());
}

TEST_F(ImageBuilderTest, LimitsHoldForAllLayersTogetherAndForDocuments) {
  const Sample sample;
  Limits limits;
  limits.entries = 3;
  EXPECT_EQ(Build(sample.Oci(), ArchiveKind::kAny, limits).status().code(),
            absl::StatusCode::kResourceExhausted);
  limits = {};
  limits.layers = 1;
  EXPECT_EQ(Build(sample.Oci(), ArchiveKind::kAny, limits).status().code(),
            absl::StatusCode::kResourceExhausted);
  limits = {};
  limits.document_bytes = 100;
  EXPECT_FALSE(Build(sample.Oci(), ArchiveKind::kAny, limits).ok());
  limits = {};
  limits.bytes = 1000;
  EXPECT_EQ(Build(Packed(sample.Oci(), "gzip"), ArchiveKind::kAny, limits).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace ferry::layers
