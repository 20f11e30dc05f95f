#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/vmmanager/layers/digest_of.h"

// Archives as tests need them: whole ones, and such as nobody should make.
namespace ferry::layers {

inline constexpr size_t kTarBlock = 512;

class TarMaker {
 public:
  TarMaker& File(const std::string& name, const std::string& data, unsigned mode = 0644) {
    return Raw(name, '0', mode, "", data, data.size());
  }
  TarMaker& Folder(const std::string& name, unsigned mode = 0755) {
    return Raw(name, '5', mode, "", "", 0);
  }
  TarMaker& Symlink(const std::string& name, const std::string& target) {
    return Raw(name, '2', 0777, target, "", 0);
  }
  TarMaker& HardLink(const std::string& name, const std::string& target) {
    return Raw(name, '1', 0644, target, "", 0);
  }
  // The next entry has these, such as {"SCHILY.xattr.user.note", "x"}.
  TarMaker& Pax(const std::vector<std::pair<std::string, std::string>>& records) {
    std::string text;
    for (const auto& [key, value] : records) {
      const std::string body = absl::StrCat(" ", key, "=", value, "\n");
      size_t size = body.size() + 1;
      while (absl::StrCat(size).size() + body.size() != size) ++size;
      absl::StrAppend(&text, size, body);
    }
    return Raw("PaxHeaders/x", 'x', 0644, "", text, text.size());
  }
  // Whatever is wanted; `size` is what the header says.
  TarMaker& Raw(const std::string& name, char type, unsigned mode, const std::string& link,
                const std::string& data, uint64_t size) {
    return Add(Header(name, type, mode, link, size), data);
  }
  // A file that is one hole, as GNU tar writes it.
  TarMaker& Hole(const std::string& name, uint64_t size) {
    std::string header = Header(name, 'S', 0644, "", 0);
    header.replace(257, 8, "ustar  \0", 8);
    // The map: no bytes, at the end.
    std::snprintf(header.data() + 386, 12, "%011llo", static_cast<unsigned long long>(size));
    std::snprintf(header.data() + 398, 12, "%011o", 0);
    std::snprintf(header.data() + 483, 12, "%011llo", static_cast<unsigned long long>(size));
    return Add(std::move(header), "");
  }

  // Makes the sum of a header right again.
  static void Sum(char* header) {
    std::memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < kTarBlock; ++i) sum += static_cast<unsigned char>(header[i]);
    std::snprintf(header + 148, 8, "%06o", sum);
  }

  std::string Bytes() const { return bytes_ + std::string(1024, '\0'); }
  // Without the blocks that end it.
  std::string OpenBytes() const { return bytes_; }

 private:
  static std::string Header(const std::string& name, char type, unsigned mode,
                            const std::string& link, uint64_t size) {
    std::string block(kTarBlock, '\0');
    char* header = block.data();
    std::memcpy(header, name.data(), std::min<size_t>(name.size(), 100));
    std::snprintf(header + 100, 8, "%07o", mode);
    std::snprintf(header + 108, 8, "%07o", 1000);
    std::snprintf(header + 116, 8, "%07o", 1000);
    std::snprintf(header + 124, 12, "%011llo", static_cast<unsigned long long>(size));
    std::snprintf(header + 136, 12, "%011o", 1700000000);
    header[156] = type;
    std::memcpy(header + 157, link.data(), std::min<size_t>(link.size(), 100));
    std::memcpy(header + 257, "ustar\00000", 8);
    return block;
  }
  TarMaker& Add(std::string header, const std::string& data) {
    Sum(header.data());
    bytes_ += header;
    bytes_.append(data);
    bytes_.resize((bytes_.size() + kTarBlock - 1) / kTarBlock * kTarBlock);
    return *this;
  }

  std::string bytes_;
};

// Makes the sums of all headers right.
inline void RepairSums(std::string* tar) {
  for (size_t at = 0; at + kTarBlock <= tar->size(); at += kTarBlock) {
    if (tar->compare(at + 257, 5, "ustar") == 0) TarMaker::Sum(tar->data() + at);
  }
}

// Packed by libarchive's filter of that name ("gzip", "zstd").
inline std::string Packed(const std::string& bytes, const char* filter) {
  std::string packed(bytes.size() + 65536, '\0');
  size_t used = 0;
  struct archive* out = archive_write_new();
  archive_write_set_format_raw(out);
  archive_write_add_filter_by_name(out, filter);
  // The same bytes whenever it is called. Other filters have no such option.
  archive_write_set_filter_option(out, "gzip", "timestamp", nullptr);
  archive_write_set_bytes_in_last_block(out, 1);
  archive_write_open_memory(out, packed.data(), packed.size(), &used);
  struct archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(out, entry);
  archive_write_data(out, bytes.data(), bytes.size());
  archive_entry_free(entry);
  archive_write_close(out);
  archive_write_free(out);
  packed.resize(used);
  return packed;
}

}  // namespace ferry::layers
