#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>

#include "absl/strings/str_split.h"
#include "vmmanager/layers/erofs_format.h"

namespace ferry::layers {

// Reads an EROFS image as the kernel does, as far as tests ask.
class ErofsReader {
 public:
  explicit ErofsReader(std::string image) : image_(std::move(image)) {
    Take(erofs::kSuperOffset, &super_);
  }

  struct File {
    erofs::Inode inode;
    uint64_t number = 0;
    std::string data;
    std::map<std::string, std::string> xattrs;
  };

  // nullopt if there is none.
  std::optional<File> Find(const std::string& path) const {
    File at = Read(super_.root);
    for (const absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
      const std::map<std::string, uint64_t> names = Names(at);
      const auto found = names.find(std::string(part));
      if (found == names.end()) return std::nullopt;
      at = Read(found->second);
    }
    return at;
  }

  // They have to be in order, for the kernel searches them.
  std::map<std::string, uint64_t> Names(const File& folder) const {
    std::map<std::string, uint64_t> names;
    std::string previous;
    for (size_t start = 0; start < folder.data.size(); start += erofs::kBlock) {
      const std::string block = folder.data.substr(start, erofs::kBlock);
      erofs::DirectoryEntry entry;
      std::memcpy(&entry, block.data(), sizeof(entry));
      const size_t count = entry.name_offset / sizeof(entry);
      for (size_t i = 0; i < count; ++i) {
        std::memcpy(&entry, block.data() + i * sizeof(entry), sizeof(entry));
        size_t end = block.size();
        if (i + 1 < count) {
          erofs::DirectoryEntry next;
          std::memcpy(&next, block.data() + (i + 1) * sizeof(entry), sizeof(entry));
          end = next.name_offset;
        }
        const std::string name = block.substr(entry.name_offset, end - entry.name_offset);
        EXPECT_LT(previous, name.c_str());
        previous = name.c_str();
        names[previous] = entry.inode;
      }
    }
    return names;
  }

 private:
  template <typename T>
  void Take(uint64_t position, T* value) const {
    std::memcpy(value, image_.data() + position, sizeof(*value));
  }

  File Read(uint64_t number) const {
    File file;
    file.number = number;
    const uint64_t position = number * erofs::kSlot;
    Take(position, &file.inode);
    const uint64_t xattrs = file.inode.xattr_count == 0 ? 0 : 12 + 4 * (file.inode.xattr_count - 1);
    const bool inlined = (file.inode.format >> 1) == static_cast<uint16_t>(erofs::Layout::kInline);
    const uint64_t in_blocks =
        inlined ? file.inode.size / erofs::kBlock * erofs::kBlock : file.inode.size;
    if (S_ISREG(file.inode.mode) || S_ISDIR(file.inode.mode) || S_ISLNK(file.inode.mode)) {
      file.data = image_.substr(file.inode.block * erofs::kBlock, in_blocks);
      file.data +=
          image_.substr(position + sizeof(erofs::Inode) + xattrs, file.inode.size - in_blocks);
    }
    for (uint64_t at = 12; at < xattrs;) {
      erofs::XattrEntry entry;
      const uint64_t from = position + sizeof(erofs::Inode) + at;
      Take(from, &entry);
      const std::string prefix = entry.prefix == erofs::kPrefixUser      ? "user."
                                 : entry.prefix == erofs::kPrefixTrusted ? "trusted."
                                                                         : "security.";
      file.xattrs[prefix + image_.substr(from + 4, entry.name_size)] =
          image_.substr(from + 4 + entry.name_size, entry.value_size);
      at += (4u + entry.name_size + entry.value_size + 3) / 4 * 4;
    }
    return file;
  }

  const std::string image_;
  erofs::SuperBlock super_;
};

}  // namespace ferry::layers
