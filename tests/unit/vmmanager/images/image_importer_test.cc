#include "vmmanager/images/image_importer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/images/fake_tool_runner.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ImageImporterTest : public ImagesTest {
 protected:
  ImageImporterTest() {
    runner_.act = [this](const ToolCommand& command) { return Build(command); };
  }

  // As ferry-layers does: one layer with the archive's bytes.
  absl::StatusOr<ToolEnd> Build(const ToolCommand& command) {
    const std::string out = FolderOfDescriptor(command.descriptors.at(4));
    std::string archive(100, '\0');
    archive.resize(static_cast<size_t>(
        std::max<ssize_t>(0, ::pread(command.descriptors.at(3), archive.data(), 100, 0))));
    WriteFile(out + "/layer-0", "layer of " + archive);
    layers::BuiltImage built;
    built.kind = layers::ArchiveKind::kRootfs;
    built.layers = {{"layer-0", DigestOf(archive), 1, 1}};
    WriteFile(out + "/result.json", layers::ToJsonText(built));
    command.progress("0 1");
    command.progress("nonsense");
    command.progress("1 1");
    return ToolEnd{};
  }

  static std::string FolderOfDescriptor(int fd) {
    return std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd));
  }

  Task<absl::StatusOr<Image>> Import(ImportRequest request, std::vector<std::string> pieces,
                                     absl::Status end = absl::OkStatus()) {
    auto left = std::make_shared<std::vector<std::string>>(pieces.rbegin(), pieces.rend());
    ImageImporter::NextPiece next = [left,
                                     end]() -> Task<absl::StatusOr<std::optional<std::string>>> {
      if (left->empty() && !end.ok()) co_return end;
      if (left->empty()) co_return std::nullopt;
      std::optional<std::string> piece = left->back();
      left->pop_back();
      co_return piece;
    };
    ImageImporter::OnProgress tell = [this](const ImportProgress& told) {
      told_.push_back(absl::StrCat(static_cast<int>(told.step), ":", told.done, "/", told.of));
    };
    return importer_.Import(std::move(request), std::move(next), std::move(tell));
  }

  FakeToolRunner runner_{io_.get_executor()};
  std::vector<std::string> told_;
  ImageImporter importer_{*store_, runner_, MakeOptions()};

 private:
  static ImageImporter::Options MakeOptions() {
    ImageImporter::Options options;
    options.builder = "/usr/bin/ferry-layers";
    options.limits.bytes = 1000;
    return options;
  }
};

TEST_F(ImageImporterTest, AnArchiveBecomesAnImageAndNothingElseStays) {
  const auto image = Await(Import({"web", layers::ArchiveKind::kRootfs, 6}, {"abc", "def"}));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->name, "web:latest");
  EXPECT_EQ(image->layers[0].diff_id, DigestOf("abcdef"));
  EXPECT_EQ(ReadFile(store_->PathOf(image->layers[0].digest)), "layer of abcdef");
  EXPECT_THAT(told_, ElementsAre("0:3/6", "0:6/6", "1:0/1", "1:1/1", "2:0/0"));
  EXPECT_THAT(runner_.commands[0].arguments, ElementsAre("rootfs", "1000", "1000000", "0"));
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(ImageImporterTest, WhateverGoesWrongNothingIsKept) {
  const ImportRequest plain{"web", layers::ArchiveKind::kAny, std::nullopt};
  using Code = absl::StatusCode;
  const auto expect = [this](const absl::StatusOr<Image>& image, Code code, const char* words) {
    EXPECT_EQ(image.status().code(), code) << image.status();
    EXPECT_THAT(std::string(image.status().message()), HasSubstr(words));
    EXPECT_THAT(TempFiles(), IsEmpty());
    EXPECT_THAT(LayerFiles(), IsEmpty());
    EXPECT_EQ(Count(), 0u);
  };
  expect(Await(Import({"No Name"}, {"x"})), Code::kInvalidArgument, "no name for an image");
  expect(Await(Import({"web", layers::ArchiveKind::kAny, 3}, {"ab"})), Code::kInvalidArgument,
         "2 bytes, and 3 were announced");
  expect(Await(Import({"web", layers::ArchiveKind::kAny, 3}, {"ab", "cd"})), Code::kInvalidArgument,
         "3 were announced");
  expect(Await(Import(plain, {"ab"}, absl::CancelledError("broke off"))), Code::kCancelled,
         "broke off");
  expect(Await(Import(plain, {std::string(1001, 'x')})), Code::kResourceExhausted,
         "more than the 1000 bytes");
  runner_.act = [](const ToolCommand&) { return ToolEnd{2, "\"../x\" leads out"}; };
  expect(Await(Import(plain, {"x"})), Code::kInvalidArgument, "\"../x\" leads out");
  runner_.act = [](const ToolCommand&) { return ToolEnd{3, "too much"}; };
  expect(Await(Import(plain, {"x"})), Code::kResourceExhausted, "too much");
  expect(Await(Import({"web", layers::ArchiveKind::kAny, 1001}, {})), Code::kResourceExhausted,
         "more than the 1000 bytes");
  runner_.act = [](const ToolCommand&) { return ToolEnd{4, "the disk is full"}; };
  expect(Await(Import(plain, {"x"})), Code::kResourceExhausted, "the disk is full");
  runner_.act = [](const ToolCommand&) { return ToolEnd{1, "the disk"}; };
  expect(Await(Import(plain, {"x"})), Code::kInternal, "the disk");
  runner_.act = [](const ToolCommand&) { return absl::DeadlineExceededError("late"); };
  expect(Await(Import(plain, {"x"})), Code::kDeadlineExceeded, "late");
  runner_.act = nullptr;
  expect(Await(Import(plain, {"x"})), Code::kInternal, "left no result");
  // Results of one that was taken over by its archive.
  runner_.act = [](const ToolCommand& command) {
    const std::string out = FolderOfDescriptor(command.descriptors.at(4));
    WriteFile(out + "/result.json", std::string(3 << 20, ' '));
    return ToolEnd{};
  };
  expect(Await(Import(plain, {"x"})), Code::kInternal, "too large");
  runner_.act = [](const ToolCommand& command) {
    const std::string out = FolderOfDescriptor(command.descriptors.at(4));
    WriteFile(out + "/result.json",
              absl::StrCat(R"({"kind":"oci","layers":[{"file":"../source","diff_id":")",
                           DigestOf("x"), R"("}]})"));
    return ToolEnd{};
  };
  expect(Await(Import(plain, {"x"})), Code::kInternal, "names no layers");
}

TEST_F(ImageImporterTest, OfADiskThatIsTooFullNothingMoreIsTaken) {
  ImageImporter::Options options;
  options.builder = "/usr/bin/ferry-layers";
  options.limits.reserve = uint64_t{1} << 60;
  ImageImporter importer(*store_, runner_, options);
  ImageImporter::NextPiece next = []() -> Task<absl::StatusOr<std::optional<std::string>>> {
    ADD_FAILURE() << "it was refused already";
    co_return std::nullopt;
  };
  ImportRequest request{"web", layers::ArchiveKind::kAny, std::nullopt};
  const absl::Status refused =
      Await(importer.Import(std::move(request), std::move(next), [](const ImportProgress&) {
      })).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(rpc::ReasonOf(refused), "disk_full");
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(ImageImporterTest, WithoutAUserForToolsNothingIsTaken) {
  runner_.runs_as = absl::FailedPreconditionError("nobody is nobody");
  const ImportRequest plain{"web", layers::ArchiveKind::kAny, std::nullopt};
  EXPECT_EQ(Await(Import(plain, {"x"})).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(runner_.commands, IsEmpty());
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(ImageImporterTest, AnImportThatIsCancelledLeavesNothing) {
  runner_.gate().Reset();
  TaskScope scope(io_.get_executor());
  scope.Spawn([](auto* test) -> Task<void> {
    ImportRequest request{"web", layers::ArchiveKind::kAny, std::nullopt};
    std::vector<std::string> pieces = {"abc"};
    Task<absl::StatusOr<Image>> importing = test->Import(std::move(request), std::move(pieces));
    (void)co_await std::move(importing);
  }(this));
  Until([this] { return !runner_.commands.empty(); });
  Await(scope.CancelAndJoin());
  EXPECT_EQ(Count(), 0u);
  // The program holds the folder until it has ended.
  EXPECT_EQ(TempFiles().size(), 1u);
  auto holds = std::static_pointer_cast<TempFolder>(runner_.commands[0].holds);
  runner_.commands.clear();
  Await(holds->Remove());
  EXPECT_THAT(TempFiles(), IsEmpty());
}

}  // namespace
}  // namespace ferry::vm
