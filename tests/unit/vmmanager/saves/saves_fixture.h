#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmmanager/saves/memory_codec.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saves/saved_file_format.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {

inline SaveKey TestKey(uint8_t first = 1) {
  SaveKey key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(first + i);
  return key;
}

// Like a VM's memory: what is empty, what repeats, and what nothing is known of.
inline std::string MixedBytes(size_t size, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::string bytes;
  while (bytes.size() < size) {
    switch (random() % 3) {
      case 0:
        bytes.append(4096 + random() % 9000, '\0');
        break;
      case 1:
        for (int i = 0; i < 200; ++i) bytes += "a page that says " + std::to_string(i % 7);
        break;
      default:
        for (int i = 0; i < 700; ++i) {
          const uint64_t value = random();
          bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
        }
    }
  }
  bytes.resize(size);
  return bytes;
}

// A saved file's parts as they are stored. Whole() makes a file of them whose index is right, as
// somebody would who wants them to be believed.
struct StoredParts {
  std::string prologue;
  std::string head;
  std::string memory;
  std::string tail;
  uint64_t raw_memory_bytes = 0;

  static StoredParts Of(const std::string& file) {
    StoredParts parts;
    parts.prologue = file.substr(0, kPrologueBytes);
    auto index = DecodeIndex(parts.prologue,
                             std::string_view(file).substr(file.size() - kIndexBytes), file.size());
    EXPECT_TRUE(index.ok()) << index.status();
    parts.head = file.substr(index->head.offset, index->head.length);
    parts.memory = file.substr(index->memory.offset, index->memory.length);
    parts.tail = file.substr(index->tail.offset, index->tail.length);
    parts.raw_memory_bytes = index->raw_memory_bytes;
    return parts;
  }

  SavedFileIndex Index() const {
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
    return index;
  }

  std::string Whole() const {
    return prologue + head + memory + tail + EncodeIndex(prologue, Index());
  }

  // With their headers, but without the end mark.
  std::vector<std::string> Frames() const {
    std::vector<std::string> frames;
    size_t at = 0;
    while (const uint32_t size = DecodeFrameHeader(std::string_view(memory).substr(at, 4))) {
      frames.push_back(memory.substr(at, kFrameHeaderBytes + size));
      at += frames.back().size();
    }
    return frames;
  }

  void SetFrames(const std::vector<std::string>& frames) {
    memory.clear();
    for (const std::string& frame : frames) memory += frame;
    memory += EncodeFrameHeader(0);
  }
};

// A folder that goes away with the test.
class SavesTest : public testing::Test {
 protected:
  SavesTest() {
    std::string pattern = testing::TempDir() + "ferry-saves-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    folder_ = pattern;
    path_ = folder_ + "/vm.save";
  }
  ~SavesTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void Put(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }
  std::string Get(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      names.push_back(entry.path().filename());
    }
    std::ranges::sort(names);
    return names;
  }

  // Gives the memory in pieces of `piece` bytes.
  SavedFileInfo Save(const SavedFileOptions& options, std::string_view memory,
                     std::string_view head = "the head", std::string_view tail = "the tail",
                     size_t piece = 1024 * 1024) {
    std::filesystem::remove(path_);  // a saved file never takes the place of another
    auto writer = SavedFileWriter::Create(path_, options);
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->WriteHead(head).ok());
    for (size_t at = 0; at < memory.size(); at += piece) {
      const absl::Status written = (*writer)->WriteMemory(memory.substr(at, piece));
      EXPECT_TRUE(written.ok()) << written;
    }
    EXPECT_EQ((*writer)->memory_bytes(), memory.size());
    auto info = (*writer)->Commit(tail);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? *info : SavedFileInfo{};
  }

  struct Contents {
    std::string head, memory, tail;
    SavedFileInfo info;
  };
  absl::StatusOr<Contents> Load(const std::optional<SaveKey>& key = std::nullopt) {
    auto reader = SavedFileReader::Open(path_, key);
    if (!reader.ok()) return reader.status();
    Contents contents{(*reader)->head(), "", (*reader)->tail(), (*reader)->info()};
    while (true) {
      auto piece = (*reader)->ReadMemory();
      if (!piece.ok()) {
        // Nor does asking again help.
        EXPECT_EQ((*reader)->ReadMemory().status(), piece.status());
        return piece.status();
      }
      if (piece->empty()) return contents;
      contents.memory += *piece;
    }
  }
  absl::Status LoadFails(const StoredParts& parts,
                         const std::optional<SaveKey>& key = std::nullopt) {
    Put(path_, parts.Whole());
    return Load(key).status();
  }

  std::string folder_;
  std::string path_;
};

}  // namespace ferry::vm
