// Throws bytes at the reader of saved files, as a damaged file or one of a stranger would. The
// first byte chooses whether they come as the file, as changes to a good file, or as its memory, or
// as changes to that, with digests that fit, so that they get to what unpacks and decrypts it.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "tests/fuzz/fuzz_target.h"
#include "vmmanager/saves/memory_codec.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saves/saved_file_format.h"
#include "vmmanager/state/envelope.h"

namespace {

using namespace ferry::vm;  // NOLINT: the whole program is about it
using ferry::fuzz::Check;

// What one run may unpack. A small file may hold much that is the same.
constexpr size_t kEnoughBytes = 16 * 1024 * 1024;

// A saved file that is taken apart, and put together with an index that fits.
struct Parts {
  std::string prologue, head, memory, tail;
  uint64_t raw_memory_bytes = 0;

  std::string Whole() const {
    SavedFileIndex index;
    index.head = {prologue.size(), head.size()};
    index.memory = {index.head.offset + head.size(), memory.size()};
    index.tail = {index.memory.offset + memory.size(), tail.size()};
    index.raw_memory_bytes = raw_memory_bytes;
    StoredMemoryHasher hasher;
    hasher.Update(memory);
    index.memory_hash_low = hasher.Result().hash_low;
    index.memory_hash_high = hasher.Result().hash_high;
    std::ranges::copy(Sha256(head), index.head_sha256.begin());
    std::ranges::copy(Sha256(tail), index.tail_sha256.begin());
    index.file_bytes = index.tail.offset + tail.size() + kIndexBytes;
    return prologue + head + memory + tail + EncodeIndex(prologue, index);
  }
};

struct Sample {
  std::optional<SaveKey> key;
  std::string file;
  Parts parts;
};

Sample MakeSample(bool zstd, bool encrypted) {
  Sample sample;
  if (encrypted) sample.key = SaveKey{{1, 2, 3}};
  SavedFileOptions options;
  options.compression = zstd ? SaveCompression::kZstd : SaveCompression::kNone;
  options.key = sample.key;
  const std::string path =
      std::filesystem::temp_directory_path() / ("ferry-fuzz-" + std::to_string(::getpid()));
  auto writer = SavedFileWriter::Create(path, options);
  Check(writer.ok() && (*writer)->WriteHead("the head").ok());
  // A frame of its own if it is not compressed, so that there are two that could change places.
  if (encrypted) Check((*writer)->WriteMemory(std::string(64 * 1024, 'a')).ok());
  Check((*writer)->WriteMemory("some memory").ok());
  Check((*writer)->Commit("the tail").ok());
  std::ifstream file(path, std::ios::binary);
  sample.file.assign(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);

  Parts& parts = sample.parts;
  parts.prologue = sample.file.substr(0, kPrologueBytes);
  const auto index = DecodeIndex(
      parts.prologue, std::string_view(sample.file).substr(sample.file.size() - kIndexBytes),
      sample.file.size());
  Check(index.ok());
  parts.head = sample.file.substr(index->head.offset, index->head.length);
  parts.memory = sample.file.substr(index->memory.offset, index->memory.length);
  parts.tail = sample.file.substr(index->tail.offset, index->tail.length);
  parts.raw_memory_bytes = index->raw_memory_bytes;
  return sample;
}

const Sample& SampleOf(int choice) {
  static const std::vector<Sample> samples = {MakeSample(false, false), MakeSample(true, false),
                                              MakeSample(false, true), MakeSample(true, true)};
  return samples[choice % samples.size()];
}

// Groups of a position (3 bytes) and a change.
std::string Change(std::string bytes, std::string_view changes) {
  const auto at = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(changes[i])); };
  for (size_t i = 0; i + 3 < changes.size() && !bytes.empty(); i += 4) {
    bytes[(at(i) << 16 | at(i + 1) << 8 | at(i + 2)) % bytes.size()] ^= changes[i + 3];
  }
  return bytes;
}

// The three ways to refuse, and no other.
bool Refused(const absl::Status& status) {
  Check(absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
        absl::IsDataLoss(status));
  return false;
}

// Whether all of it was believed.
bool Read(std::string_view file, const std::optional<SaveKey>& key) {
  static const ferry::UniqueFd memory(::memfd_create("saved", MFD_CLOEXEC));
  Check(::ftruncate(memory.get(), 0) == 0 && ::lseek(memory.get(), 0, SEEK_SET) == 0 &&
        ferry::WriteAll(memory.get(), {file.data(), file.size()}));
  auto reader = SavedFileReader::Open("/proc/self/fd/" + std::to_string(memory.get()), key);
  if (!reader.ok()) return Refused(reader.status());
  Check((*reader)->info().file_bytes == file.size());
  Check((*reader)->head().size() + (*reader)->tail().size() < file.size());
  uint64_t total = 0;
  while (total < kEnoughBytes) {
    auto piece = (*reader)->ReadMemory();
    if (!piece.ok()) {
      Check((*reader)->ReadMemory().status() == piece.status());
      return Refused(piece.status());
    }
    if (piece->empty()) {
      Check(total == (*reader)->info().memory_bytes);
      return true;
    }
    Check(piece->size() <= kMaxFrameBytes);
    total += piece->size();
    Check(total <= (*reader)->info().memory_bytes);
  }
  return false;
}

void TryChanged(const Sample& sample, std::string_view changes) {
  const std::string changed = Change(sample.file, changes);
  Check(Read(changed, sample.key) == (changed == sample.file));
}

void TryMemory(const Sample& sample, uint64_t raw_bytes, std::string memory) {
  Parts parts = sample.parts;
  const bool same = memory == parts.memory && raw_bytes == parts.raw_memory_bytes;
  parts.memory = std::move(memory);
  parts.raw_memory_bytes = raw_bytes;
  const bool believed = Read(parts.Whole(), sample.key);
  if (same) Check(believed);
  // Nobody without the key can make another memory.
  if (!same && sample.key) Check(!believed);
}

}  // namespace

namespace ferry::fuzz {

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (int choice = 0; choice < 4; ++choice) {
    const Sample& sample = SampleOf(choice);
    const auto first = [&](int way) { return std::string(1, static_cast<char>(way * 4 + choice)); };
    seeds.push_back(first(0) + sample.file.substr(0, 4096));
    seeds.push_back(first(1) + std::string(8, '\0'));
    seeds.push_back(first(2) + '\0' + sample.parts.memory.substr(0, 4096));
    seeds.push_back(first(3) + '\0' + std::string(8, '\0'));
  }
  return seeds;
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ferry::fuzz::Input input(data, size);
  const uint8_t first = input.Byte();
  const Sample& sample = SampleOf(first % 4);
  const uint64_t right = sample.parts.raw_memory_bytes;
  switch (first / 4 % 4) {
    case 0:
      Read(input.Rest(), sample.key);
      break;
    case 1:
      TryChanged(sample, input.Rest());
      break;
    case 2: {
      const uint64_t raw_bytes = right + input.Byte();
      TryMemory(sample, raw_bytes, std::string(input.Rest()));
      break;
    }
    default: {
      const uint64_t raw_bytes = right + input.Byte();
      TryMemory(sample, raw_bytes, Change(sample.parts.memory, input.Rest()));
    }
  }
  return 0;
}
