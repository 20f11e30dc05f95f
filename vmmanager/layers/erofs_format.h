#pragma once

#include <bit>
#include <cstdint>

// The on-disk format of EROFS, as far as uncompressed images need it. All numbers are
// little-endian. See Documentation/filesystems/erofs.rst of the Linux kernel.
namespace ferry::layers::erofs {

static_assert(std::endian::native == std::endian::little);

inline constexpr uint64_t kBlock = 4096;
inline constexpr uint64_t kSuperOffset = 1024;
inline constexpr uint32_t kMagic = 0xE0F5E1E2;
inline constexpr uint32_t kCompatMtime = 2;  // inodes hold modification times
inline constexpr uint64_t kSlot = 32;        // an inode's number is its offset in these

struct SuperBlock {
  uint32_t magic = kMagic;
  uint32_t checksum = 0;
  uint32_t feature_compat = kCompatMtime;
  uint8_t block_bits = 12;
  uint8_t extension_slots = 0;
  uint16_t root = 0;  // its inode's number
  uint64_t inodes = 0;
  uint64_t build_time = 0;
  uint32_t build_nanoseconds = 0;
  uint32_t blocks = 0;
  uint32_t meta_block = 0;
  uint32_t xattr_block = 0;
  uint8_t uuid[16] = {};
  uint8_t volume_name[16] = {};
  uint32_t feature_incompat = 0;
  uint16_t compression = 0;
  uint16_t extra_devices = 0;
  uint16_t device_slots = 0;
  uint8_t reserved[38] = {};
};
static_assert(sizeof(SuperBlock) == 128);

enum class Layout : uint16_t {
  kPlain = 0,   // data in whole blocks
  kInline = 2,  // the rest behind the last whole block follows the inode
};

// The 64-byte kind of inode.
struct Inode {
  uint16_t format = 1;
  uint16_t xattr_count = 0;  // see XattrCount
  uint16_t mode = 0;
  uint16_t reserved = 0;
  uint64_t size = 0;
  uint32_t block = 0;  // the first of its data; of devices, their number
  uint32_t number = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t mtime = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t links = 1;
  uint8_t reserved2[16] = {};

  void SetLayout(Layout layout) {
    format = static_cast<uint16_t>(1 | (static_cast<uint16_t>(layout) << 1));
  }
};
static_assert(sizeof(Inode) == 64);

struct __attribute__((packed)) DirectoryEntry {
  uint64_t inode = 0;
  uint16_t name_offset = 0;  // in its block
  uint8_t type = 0;
  uint8_t reserved = 0;
};
static_assert(sizeof(DirectoryEntry) == 12);

// Types in directory entries.
inline constexpr uint8_t kTypeFile = 1;
inline constexpr uint8_t kTypeDirectory = 2;
inline constexpr uint8_t kTypeCharacterDevice = 3;
inline constexpr uint8_t kTypeFifo = 5;
inline constexpr uint8_t kTypeSymlink = 7;

struct XattrHeader {
  uint32_t name_filter = 0;
  uint8_t shared_count = 0;
  uint8_t reserved[7] = {};
};
static_assert(sizeof(XattrHeader) == 12);

struct XattrEntry {
  uint8_t name_size = 0;  // without its prefix
  uint8_t prefix = 0;
  uint16_t value_size = 0;
};
static_assert(sizeof(XattrEntry) == 4);

inline constexpr uint8_t kPrefixUser = 1;
inline constexpr uint8_t kPrefixTrusted = 4;
inline constexpr uint8_t kPrefixSecurity = 6;

}  // namespace ferry::layers::erofs
