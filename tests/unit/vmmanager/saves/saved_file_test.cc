// Writing and reading back, and what is left when writing ends early.
#include "vmmanager/saves/saved_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <tuple>

#include "tests/unit/vmmanager/saves/saves_fixture.h"

namespace ferry::vm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Compression with so many threads (0: none), encrypted, bypassing the cache.
using Way = std::tuple<unsigned, bool, bool>;

SavedFileOptions OptionsOf(const Way& way) {
  SavedFileOptions options;
  const auto [workers, encrypted, bypass] = way;
  if (workers > 0) {
    options.compression = SaveCompression::kZstd;
    options.workers = workers;
  }
  if (encrypted) options.key = TestKey();
  options.bypass_cache = bypass;
  return options;
}

class SavedFileWays : public SavesTest, public testing::WithParamInterface<Way> {};

TEST_P(SavedFileWays, MemoryOfEverySizeComesBack) {
  const SavedFileOptions options = OptionsOf(GetParam());
  for (const size_t size : {size_t{0}, size_t{1}, kMaxFrameBytes - 1, kMaxFrameBytes,
                            kMaxFrameBytes + 1, size_t{7'654'321}}) {
    SCOPED_TRACE(size);
    const std::string memory = MixedBytes(size);
    const SavedFileInfo info = Save(options, memory);
    auto loaded = Load(options.key);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->head, "the head");
    EXPECT_EQ(loaded->tail, "the tail");
    EXPECT_TRUE(loaded->memory == memory);
    EXPECT_EQ(loaded->info.sha256, info.sha256);
    EXPECT_EQ(loaded->info.file_bytes, std::filesystem::file_size(path_));
    EXPECT_EQ(info.file_bytes, loaded->info.file_bytes);
    EXPECT_EQ(loaded->info.memory_bytes, size);
    EXPECT_EQ(loaded->info.compression, options.compression);
    EXPECT_EQ(loaded->info.encrypted, options.key.has_value());
  }
}

TEST_P(SavedFileWays, ThePiecesThatItIsGivenInDoNotMatter) {
  const SavedFileOptions options = OptionsOf(GetParam());
  const std::string memory = MixedBytes(2'500'000);
  for (const size_t piece : {size_t{997}, size_t{64 * 1024}, size_t{65'537}, size_t{2'400'000}}) {
    SCOPED_TRACE(piece);
    Save(options, memory, "", "", piece);
    auto loaded = Load(options.key);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_TRUE(loaded->memory == memory);
    EXPECT_EQ(loaded->head + loaded->tail, "");
  }
}

TEST_P(SavedFileWays, MemoryMayBePutWhereItIsWrittenFrom) {
  const SavedFileOptions options = OptionsOf(GetParam());
  const std::string memory = MixedBytes(9'876'543);
  for (const size_t most : {size_t{1}, size_t{4093}, size_t{65'536}, size_t{1} << 30}) {
    SCOPED_TRACE(most);
    // Few bytes at once make many frames; a part of the memory will do.
    std::string_view left = std::string_view(memory).substr(0, most == 1 ? 1000 : memory.size());
    const std::string expected(left);
    std::filesystem::remove(path_);
    auto writer = SavedFileWriter::Create(path_, options);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->WriteHead("the head").ok());
    absl::StatusOr<size_t> count = size_t{0};
    do {
      // The two ways can be mixed.
      const std::string_view given = left.substr(0, 100);
      ASSERT_TRUE((*writer)->WriteMemory(given).ok());
      left.remove_prefix(given.size());
      count = (*writer)->WriteMemoryFrom([&](std::span<char> place) {
        EXPECT_GE(place.size(), size_t{64} * 1024);
        return left.copy(place.data(), std::min(place.size(), most));
      });
      ASSERT_TRUE(count.ok()) << count.status();
      left.remove_prefix(*count);
    } while (*count > 0);
    EXPECT_EQ((*writer)->memory_bytes(), expected.size());
    ASSERT_TRUE((*writer)->Commit("the tail").ok());
    auto loaded = Load(options.key);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_TRUE(loaded->memory == expected);
  }
}

INSTANTIATE_TEST_SUITE_P(All, SavedFileWays,
                         testing::Combine(testing::Values(0u, 1u, 4u), testing::Bool(),
                                          testing::Bool()));

class SavedFileTest : public SavesTest {
 protected:
  // Whether the file system here can.
  bool CanBypass() {
    const UniqueFd probe(
        ::open((folder_ + "/probe").c_str(), O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
    std::filesystem::remove(folder_ + "/probe");
    return probe.valid();
  }
};

TEST_F(SavedFileTest, WhatCannotBePutThereIsTold) {
  auto writer = SavedFileWriter::Create(path_, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto nothing = [](std::span<char>) -> absl::StatusOr<size_t> {
    return absl::UnavailableError("nothing came");
  };
  ASSERT_TRUE((*writer)->WriteHead("").ok());
  EXPECT_THAT((*writer)->WriteMemoryFrom(nothing).status().message(), HasSubstr("nothing came"));
  // What came before it may have been cut.
  EXPECT_THAT((*writer)->Commit("").status().message(), HasSubstr("nothing came"));
}

TEST_F(SavedFileTest, CompressionMakesItSmallerAndEncryptionHidesIt) {
  const std::string memory(3'000'000, 'A');
  SavedFileOptions options;
  options.compression = SaveCompression::kZstd;
  EXPECT_LT(Save(options, memory).file_bytes, 10'000u);
  options.compression = SaveCompression::kNone;
  options.key = TestKey();
  Save(options, memory);
  const std::string once = Get(path_);
  // Long enough that they do not come about by chance.
  EXPECT_EQ(once.find("AAAAAAAAAAAA"), std::string::npos);
  EXPECT_EQ(once.find("the head"), std::string::npos);
  EXPECT_EQ(once.find("the tail"), std::string::npos);
  Save(options, memory);
  // Another salt, so nothing in it is the same.
  EXPECT_NE(once.substr(kPrologueBytes, 24), Get(path_).substr(kPrologueBytes, 24));
}

TEST_F(SavedFileTest, TheHighestLevelComesBack) {
  SavedFileOptions options;
  options.compression = SaveCompression::kZstd;
  options.level = 19;
  options.workers = 16;
  const std::string memory = MixedBytes(1'000'000);
  Save(options, memory);
  auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->memory == memory);
}

TEST_F(SavedFileTest, OnlyItsOwnerMayReadIt) {
  const mode_t before = ::umask(0);
  for (const bool bypass : {false, true}) {
    SavedFileOptions options;
    options.bypass_cache = bypass;
    Save(options, "memory");
    struct stat info {};
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
  }
  ::umask(before);
}

TEST_F(SavedFileTest, NothingIsLeftOfOneThatWasNotCommitted) {
  for (const bool bypass : {false, true}) {
    SavedFileOptions options;
    options.bypass_cache = bypass;
    auto writer = SavedFileWriter::Create(path_, options);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->WriteHead("head").ok());
    ASSERT_TRUE((*writer)->WriteMemory(MixedBytes(3'000'000)).ok());
    // Where there are files without a name it has none yet.
    EXPECT_THAT(Names(), testing::Each(testing::StartsWith("vm.save.partial-")));
    writer->reset();
    EXPECT_TRUE(Names().empty());
  }
}

TEST_F(SavedFileTest, NoOtherFileIsEverReplaced) {
  Put(path_, "what was there before");
  EXPECT_TRUE(absl::IsAlreadyExists(SavedFileWriter::Create(path_, {}).status()));
  // Nor one that came while this one was written.
  std::filesystem::remove(path_);
  auto writer = SavedFileWriter::Create(path_, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->WriteHead("head").ok());
  ASSERT_TRUE((*writer)->WriteMemory("memory").ok());
  Put(path_, "what came meanwhile");
  EXPECT_TRUE(absl::IsAlreadyExists((*writer)->Commit("tail").status()));
  writer->reset();
  EXPECT_THAT(Names(), ElementsAre("vm.save"));
  EXPECT_EQ(Get(path_), "what came meanwhile");
}

TEST_F(SavedFileTest, ARelativePathWillDo) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder_);
  path_ = "vm.save";
  Save({}, "memory");
  const bool loaded = Load().ok();
  std::filesystem::current_path(before);
  EXPECT_TRUE(loaded);
  EXPECT_THAT(Names(), ElementsAre("vm.save"));
}

TEST_F(SavedFileTest, TheCacheIsBypassedWhereThatIsPossible) {
  if (!CanBypass()) GTEST_SKIP() << "the file system of " << folder_ << " has no O_DIRECT";
  SavedFileOptions options;
  options.bypass_cache = true;
  auto writer = SavedFileWriter::Create(path_, options);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->WriteHead("head").ok());
  ASSERT_TRUE((*writer)->WriteMemory(MixedBytes(5'000'000)).ok());
  bool direct = false;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (!std::filesystem::read_symlink(entry.path(), gone).string().starts_with(folder_)) continue;
    direct = (::fcntl(std::stoi(entry.path().filename()), F_GETFL) & O_DIRECT) != 0;
  }
  EXPECT_TRUE(direct);
}

TEST_F(SavedFileTest, WhatIsWrongWithTheCallsIsSaid) {
  using Code = absl::StatusCode;
  SavedFileOptions options;
  for (const int level : {0, 20}) {
    options.level = level;
    EXPECT_EQ(SavedFileWriter::Create(path_, options).status().code(), Code::kInvalidArgument);
  }
  options.level = 1;
  for (const unsigned workers : {0u, 17u}) {
    options.workers = workers;
    EXPECT_EQ(SavedFileWriter::Create(path_, options).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(SavedFileWriter::Create(folder_ + "/none/x", {}).status().code(), Code::kNotFound);
  EXPECT_EQ(SavedFileReader::Open(path_, std::nullopt).status().code(), Code::kNotFound);
  EXPECT_EQ(SavedFileReader::Open(folder_, std::nullopt).status().code(), Code::kInvalidArgument);

  auto early = *SavedFileWriter::Create(path_, {});
  EXPECT_EQ(early->WriteMemory("x").code(), Code::kFailedPrecondition);
  // Nor can it be committed after that.
  EXPECT_EQ(early->Commit("").status().code(), Code::kFailedPrecondition);
  auto twice = *SavedFileWriter::Create(path_, {});
  EXPECT_TRUE(twice->WriteHead("x").ok());
  EXPECT_EQ(twice->WriteHead("x").code(), Code::kFailedPrecondition);
  auto large = *SavedFileWriter::Create(path_, {});
  EXPECT_TRUE(large->WriteHead("x").ok());
  EXPECT_EQ(large->Commit(std::string(kMaxTailBytes + 1, 'x')).status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(large->Commit("").status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(path_));
  auto committed = *SavedFileWriter::Create(path_, {});
  EXPECT_TRUE(committed->WriteHead("x").ok());
  EXPECT_TRUE(committed->Commit("").ok());
  EXPECT_EQ(committed->Commit("").status().code(), Code::kFailedPrecondition);
}

TEST_F(SavedFileTest, TheLargestHeadAndTailComeBack) {
  SavedFileOptions options;
  options.key = TestKey();
  const std::string head(kMaxHeadBytes, 'h');
  const std::string tail(kMaxTailBytes, 't');
  Save(options, "memory", head, tail);
  auto loaded = Load(options.key);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->head == head);
  EXPECT_TRUE(loaded->tail == tail);
}

TEST_F(SavedFileTest, ItNeedsTheKeyThatItWasSavedWith) {
  using Code = absl::StatusCode;
  SavedFileOptions options;
  options.key = TestKey(1);
  Save(options, "memory");
  const absl::Status none = Load().status();
  EXPECT_EQ(none.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(none.message()), HasSubstr("needs its key file"));
  const absl::Status wrong = Load(TestKey(2)).status();
  EXPECT_EQ(wrong.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(wrong.message()),
              HasSubstr("the key is not the one that it was saved with, or the file was altered"));
  EXPECT_TRUE(Load(TestKey(1)).ok());
  Save({}, "memory");
  EXPECT_EQ(Load(TestKey(1)).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace ferry::vm
