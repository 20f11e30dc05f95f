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
#include "absl/strings/string_view.h"
#include "vmmanager/layers/byte_source.h"

// Archives as tests need them: whole ones, and such as nobody should make.
namespace ferry::layers {

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
    char header[512] = {};
    std::memcpy(header, name.data(), std::min<size_t>(name.size(), 100));
    std::snprintf(header + 100, 8, "%07o", mode);
    std::snprintf(header + 108, 8, "%07o", 1000);
    std::snprintf(header + 116, 8, "%07o", 1000);
    std::snprintf(header + 124, 12, "%011llo", static_cast<unsigned long long>(size));
    std::snprintf(header + 136, 12, "%011o", 1700000000);
    std::memset(header + 148, ' ', 8);
    header[156] = type;
    std::memcpy(header + 157, link.data(), std::min<size_t>(link.size(), 100));
    std::memcpy(header + 257, "ustar\00000", 8);
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    std::snprintf(header + 148, 8, "%06o", sum);
    bytes_.append(header, sizeof(header));
    bytes_.append(data);
    bytes_.resize((bytes_.size() + 511) / 512 * 512);
    return *this;
  }

  std::string Bytes() const { return bytes_ + std::string(1024, '\0'); }
  // Without the blocks that end it.
  std::string OpenBytes() const { return bytes_; }

 private:
  std::string bytes_;
};

inline std::string DigestOf(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(absl::MakeConstSpan(bytes.data(), bytes.size()));
  return hash.Finish();
}

// Packed by libarchive's filter of that name ("gzip", "zstd").
inline std::string Packed(const std::string& bytes, const char* filter) {
  std::string packed(bytes.size() + 65536, '\0');
  size_t used = 0;
  struct archive* out = archive_write_new();
  archive_write_set_format_raw(out);
  archive_write_add_filter_by_name(out, filter);
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
