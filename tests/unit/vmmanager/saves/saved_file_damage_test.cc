// Files that were cut or altered, by chance or by somebody who makes the digests anew.
#include <gmock/gmock.h>
#include <zstd.h>

#include <tuple>

#include "tests/unit/vmmanager/saves/saves_fixture.h"

namespace ferry::vm {
namespace {

using testing::HasSubstr;

bool IsRefusal(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInvalidArgument(status) ||
         absl::IsFailedPrecondition(status);
}

std::string Frame(std::string_view content) {
  return EncodeFrameHeader(content.size()) + std::string(content);
}

// Compressed, encrypted.
class DamagedFile : public SavesTest, public testing::WithParamInterface<std::tuple<bool, bool>> {
 protected:
  DamagedFile() {
    const auto [zstd, encrypted] = GetParam();
    if (zstd) options_.compression = SaveCompression::kZstd;
    if (encrypted) options_.key = TestKey();
    Save(options_, "some memory, not much", "head", "tail");
    file_ = Get(path_);
  }

  SavedFileOptions options_;
  std::string file_;
};

TEST_P(DamagedFile, EveryAlteredByteIsSeen) {
  ASSERT_TRUE(Load(options_.key).ok());
  for (size_t at = 0; at < file_.size(); ++at) {
    for (const char change : {'\x01', '\x80', '\xff'}) {
      std::string altered = file_;
      altered[at] ^= change;
      Put(path_, altered);
      const absl::Status status = Load(options_.key).status();
      EXPECT_TRUE(IsRefusal(status)) << at << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    }
  }
}

TEST_P(DamagedFile, EveryCutIsSeen) {
  for (size_t size = 0; size < file_.size(); ++size) {
    Put(path_, file_.substr(0, size));
    const absl::Status status = Load(options_.key).status();
    EXPECT_TRUE(IsRefusal(status)) << size << ": " << status;
    // Cut before its magic it is just some other file.
    EXPECT_EQ(absl::IsInvalidArgument(status), size < 8) << size << ": " << status;
  }
}

TEST_P(DamagedFile, EveryByteThatWasTakenOutOrPutInIsSeen) {
  for (size_t at = 0; at <= file_.size(); ++at) {
    Put(path_, file_.substr(0, at) + "x" + file_.substr(at));
    EXPECT_TRUE(IsRefusal(Load(options_.key).status())) << at;
    if (at == file_.size()) break;
    Put(path_, file_.substr(0, at) + file_.substr(at + 1));
    EXPECT_TRUE(IsRefusal(Load(options_.key).status())) << at;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DamagedFile, testing::Combine(testing::Bool(), testing::Bool()));

class AlteredFile : public SavesTest {
 protected:
  StoredParts Saved(const SavedFileOptions& options, std::string_view memory) {
    Save(options, memory);
    return StoredParts::Of(Get(path_));
  }
};

TEST_F(AlteredFile, ItIsSaidWhatIsDamaged) {
  const StoredParts parts = Saved({}, "some memory");
  const std::string file = parts.Whole();
  const SavedFileIndex index = parts.Index();
  const std::pair<size_t, const char*> places[] = {{index.head.offset, "the head was altered"},
                                                   {index.memory.offset + 5, "the memory"},
                                                   {index.tail.offset, "the tail was altered"},
                                                   {file.size() - kIndexBytes, "its index"}};
  for (const auto& [at, what] : places) {
    std::string altered = file;
    altered[at] ^= 1;
    Put(path_, altered);
    const absl::Status status = Load().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }
  // The end is where it should be, and something before it is not.
  Put(path_, file.substr(0, 40) + "x" + file.substr(40));
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("its length is"));
}

TEST_F(AlteredFile, ALostHalfIsSeenThoughItWasThereWhenItWasOpened) {
  Save({}, MixedBytes(3'000'000));
  auto reader = SavedFileReader::Open(path_, std::nullopt);
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::filesystem::resize_file(path_, 1'500'000);
  auto piece = (*reader)->ReadMemory();
  while (piece.ok() && !piece->empty()) piece = (*reader)->ReadMemory();
  EXPECT_TRUE(absl::IsDataLoss(piece.status())) << piece.status();
}

TEST_F(AlteredFile, OtherVersionsAndFlagsAreNotDamage) {
  StoredParts parts = Saved({}, "memory");
  parts.prologue[8] = 2;
  absl::Status status = LoadFails(parts);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 2"));
  parts.prologue[8] = 1;
  for (const char flags : {'\x04', '\x80'}) {
    parts.prologue[12] = flags;
    status = LoadFails(parts);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("newer ferryd"));
  }
  Put(path_, "#!/bin/sh\n" + std::string(1000, ' '));
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("is not a VM's saved state"));
}

// Each with digests that fit.
TEST_F(AlteredFile, EncryptedFramesStayWhereTheyWere) {
  SavedFileOptions options;
  options.key = TestKey();
  const StoredParts one = Saved(options, MixedBytes(4 * kMaxFrameBytes, 1));
  const StoredParts two = Saved(options, MixedBytes(4 * kMaxFrameBytes, 2));
  ASSERT_TRUE(LoadFails(one, options.key).ok());
  const std::vector<std::string> frames = one.Frames();
  ASSERT_EQ(frames.size(), 5u);  // the last one is empty

  StoredParts altered = one;
  altered.SetFrames({frames[1], frames[0], frames[2], frames[3], frames[4]});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered.SetFrames({frames[0], frames[1], frames[2], frames[4]});
  altered.raw_memory_bytes -= kMaxFrameBytes;
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered.SetFrames({frames[0], frames[1], frames[2]});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered = one;
  altered.SetFrames({});
  altered.raw_memory_bytes = 0;
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered = one;
  altered.SetFrames({frames[0], two.Frames()[1], frames[2], frames[3], frames[4]});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered.SetFrames({frames[0], frames[1], frames[2], frames[3], two.Frames()[4]});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  // The prologue's flags are vouched for as well.
  altered = one;
  altered.prologue[12] = static_cast<char>(kEncryptedFlag | kZstdFlag);
  EXPECT_TRUE(absl::IsFailedPrecondition(LoadFails(altered, options.key)));
}

TEST_F(AlteredFile, EncryptedHeadsAndTailsStayWhereTheyWere) {
  SavedFileOptions options;
  options.key = TestKey();
  const StoredParts one = Saved(options, "memory");
  const StoredParts two = Saved(options, "memory");
  StoredParts altered = one;
  altered.head = two.head;
  EXPECT_TRUE(absl::IsFailedPrecondition(LoadFails(altered, options.key)));
  altered = one;
  altered.tail = two.tail;
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered = one;
  altered.tail = one.head;
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
  altered = one;
  altered.tail = "short";
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(altered, options.key)));
}

TEST_F(AlteredFile, AMemoryOfAnotherLengthThanWasSaidIsRefused) {
  for (const auto compression : {SaveCompression::kNone, SaveCompression::kZstd}) {
    SavedFileOptions options;
    options.compression = compression;
    StoredParts parts = Saved(options, std::string(10'000'000, 'x'));
    for (const uint64_t said : {uint64_t{0}, uint64_t{10'000'001}, ~uint64_t{0}}) {
      parts.raw_memory_bytes = said;
      EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts)));
    }
    // It stops where it should have ended, not where it does.
    parts.raw_memory_bytes = 100;
    Put(path_, parts.Whole());
    auto reader = SavedFileReader::Open(path_, std::nullopt);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE(absl::IsDataLoss((*reader)->ReadMemory().status()));
  }
}

TEST_F(AlteredFile, FramesOfLengthsThatNoneHasAreRefused) {
  StoredParts parts = Saved({}, "memory");
  for (const std::string& memory :
       {std::string(), std::string("abc"), std::string("\xff\xff\xff\xff", 4),
        std::string("\x01\x00\x10\x00", 4), EncodeFrameHeader(6) + "memory",
        EncodeFrameHeader(0) + Frame("memory") + EncodeFrameHeader(0),
        Frame("memory") + EncodeFrameHeader(0) + "x", Frame("memory") + EncodeFrameHeader(1)}) {
    parts.memory = memory;
    EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts))) << memory.size();
  }
  parts.SetFrames({Frame("mem"), Frame("ory")});
  EXPECT_TRUE(LoadFails(parts).ok());
  parts.raw_memory_bytes = kMaxFrameBytes + 1;
  parts.SetFrames({Frame(std::string(kMaxFrameBytes + 1, 'x'))});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts)));
}

TEST_F(AlteredFile, CompressedMemoryIsOneStreamThatWantsLittle) {
  SavedFileOptions options;
  options.compression = SaveCompression::kZstd;
  StoredParts parts = Saved(options, "memory");
  const std::string stream = parts.Frames()[0];
  parts.SetFrames({stream, stream});
  parts.raw_memory_bytes = 12;
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts)));
  parts.SetFrames({stream});
  parts.raw_memory_bytes = 6;
  EXPECT_TRUE(LoadFails(parts).ok());
  parts.SetFrames({Frame(stream.substr(kFrameHeaderBytes, stream.size() - 6))});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts)));

  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, 27);
  std::string packed(100, '\0');
  ZSTD_outBuffer out{packed.data(), packed.size(), 0};
  ZSTD_inBuffer in{"memory", 6, 0};
  // Said in two calls, so that zstd cannot see how little it is.
  ASSERT_FALSE(ZSTD_isError(ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_flush)));
  ASSERT_EQ(ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_end), 0u);
  parts.SetFrames({Frame(packed.substr(0, out.pos))});
  EXPECT_TRUE(absl::IsDataLoss(LoadFails(parts)));
}

TEST_F(AlteredFile, AnIndexThatPointsElsewhereIsRefused) {
  const StoredParts parts = Saved({}, "memory");
  const SavedFileIndex good = parts.Index();
  const std::string before = parts.prologue + parts.head + parts.memory + parts.tail;
  std::vector<SavedFileIndex> bad(9, good);
  bad[0].head.offset -= 1;
  bad[1].head.length = ~uint64_t{0};
  bad[2].head.length += 1;
  bad[3].memory.offset += 1;
  bad[4].memory.length = ~uint64_t{0} - 10;
  bad[5].tail.offset = ~uint64_t{0};
  bad[6].tail.length -= 1;
  bad[7].file_bytes += 1;
  bad[8].memory.length = good.memory.length + good.tail.length + 1;
  bad[8].tail = {good.tail.offset + good.tail.length + 1, ~uint64_t{0}};
  for (size_t i = 0; i < bad.size(); ++i) {
    Put(path_, before + EncodeIndex(parts.prologue, bad[i]));
    EXPECT_TRUE(absl::IsDataLoss(Load().status())) << i;
  }
  // Something between the tail and the index.
  SavedFileIndex gap = good;
  gap.file_bytes += 1;
  Put(path_, before + "x" + EncodeIndex(parts.prologue, gap));
  EXPECT_TRUE(absl::IsDataLoss(Load().status()));
  Put(path_, before + EncodeIndex(parts.prologue, good));
  EXPECT_TRUE(Load().ok());
}

}  // namespace
}  // namespace ferry::vm
