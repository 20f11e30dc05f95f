#include "vmmanager/layers/erofs_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/disk_space.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {
namespace {

using erofs::Inode;
using erofs::kBlock;
using erofs::kSlot;
using erofs::Layout;

// Right behind the super block: the root's number must be small.
constexpr uint64_t kRootPosition = erofs::kSuperOffset + sizeof(erofs::SuperBlock);
static_assert(kRootPosition % kSlot == 0);
static_assert(kRootPosition + sizeof(Inode) + kMaxXattrBytes <= kBlock);
constexpr uint32_t kFolderLinks = 2;  // its name and its own "."
// Nothing is told apart by it; the digest names the image.
constexpr std::array<uint8_t, 16> kUuid = {0xfe, 0x44, 0x79, 0x00, 0x6c, 0x61, 0x49, 0x65,
                                           0x80, 0x72, 0x73, 0x00, 0x00, 0x00, 0x00, 0x01};

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

template <typename T>
absl::Span<const char> BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

bool AllZero(absl::Span<const char> data) {
  return std::all_of(data.begin(), data.end(), [](char c) { return c == 0; });
}

Inode MakeInode(uint32_t type, const FileAttributes& attributes) {
  Inode inode;
  inode.mode = static_cast<uint16_t>(type | attributes.permissions);
  inode.uid = attributes.uid;
  inode.gid = attributes.gid;
  inode.mtime = static_cast<uint64_t>(attributes.mtime);
  inode.mtime_nanoseconds = attributes.mtime_nanoseconds;
  return inode;
}

std::optional<erofs::XattrEntry> PrefixOf(absl::string_view* name) {
  erofs::XattrEntry entry;
  for (const auto& [prefix, number] :
       {std::pair{"user.", erofs::kPrefixUser}, std::pair{"trusted.", erofs::kPrefixTrusted},
        std::pair{"security.", erofs::kPrefixSecurity}}) {
    if (!absl::StartsWith(*name, prefix)) continue;
    name->remove_prefix(std::strlen(prefix));
    entry.prefix = number;
    return entry;
  }
  return std::nullopt;
}

// As they follow an inode; empty if there are none.
absl::StatusOr<std::string> EncodeXattrs(const std::map<std::string, std::string>& xattrs) {
  if (xattrs.empty()) return std::string();
  std::string text(sizeof(erofs::XattrHeader), '\0');
  for (const auto& [name, value] : xattrs) {
    absl::string_view rest = name;
    std::optional<erofs::XattrEntry> entry = PrefixOf(&rest);
    if (!entry) return absl::InvalidArgumentError(absl::StrCat("unknown attribute ", name));
    if (rest.size() > kMaxName || value.size() > kMaxXattrBytes) {
      return absl::InvalidArgumentError("its extended attributes are too long");
    }
    entry->name_size = static_cast<uint8_t>(rest.size());
    entry->value_size = static_cast<uint16_t>(value.size());
    const absl::Span<const char> head = BytesOf(*entry);
    text.append(head.data(), head.size());
    absl::StrAppend(&text, rest, value);
    text.resize(RoundUp(text.size(), sizeof(erofs::XattrEntry)));
    if (text.size() > kMaxXattrBytes) {
      return absl::InvalidArgumentError("its extended attributes are too long");
    }
  }
  return text;
}

uint16_t XattrCount(const std::string& encoded) {
  if (encoded.empty()) return 0;
  const size_t entries = encoded.size() - sizeof(erofs::XattrHeader);
  return static_cast<uint16_t>(entries / sizeof(erofs::XattrEntry) + 1);
}

struct Name {
  std::string name;
  uint64_t inode;
  uint8_t type;
};

uint8_t TypeOf(NodeKind kind) {
  switch (kind) {
    case NodeKind::kFile:
      return erofs::kTypeFile;
    case NodeKind::kDirectory:
      return erofs::kTypeDirectory;
    case NodeKind::kSymlink:
      return erofs::kTypeSymlink;
    case NodeKind::kFifo:
      return erofs::kTypeFifo;
    case NodeKind::kWhiteout:
      return erofs::kTypeCharacterDevice;
  }
  return erofs::kTypeFile;
}

// Sorted by their bytes, as the kernel searches them.
std::vector<Name> NamesIn(const Node& node, const Node& parent) {
  std::vector<Name> names;
  names.reserve(node.children.size() + 2);
  names.push_back({".", node.inode, erofs::kTypeDirectory});
  names.push_back({"..", parent.inode, erofs::kTypeDirectory});
  for (const auto& [name, child] : node.children) {
    names.push_back({name, child->inode, TypeOf(child->kind)});
  }
  std::sort(names.begin(), names.end(),
            [](const Name& a, const Name& b) { return a.name < b.name; });
  return names;
}

// A folder's data: blocks of entries, each with its names behind them.
std::string EncodeFolder(const std::vector<Name>& names) {
  std::string data;
  for (size_t first = 0; first < names.size();) {
    size_t last = first;
    size_t used = 0;
    while (last < names.size() &&
           used + sizeof(erofs::DirectoryEntry) + names[last].name.size() <= kBlock) {
      used += sizeof(erofs::DirectoryEntry) + names[last++].name.size();
    }
    size_t offset = (last - first) * sizeof(erofs::DirectoryEntry);
    std::string block;
    for (size_t i = first; i < last; ++i) {
      erofs::DirectoryEntry entry;
      entry.inode = names[i].inode;
      entry.name_offset = static_cast<uint16_t>(offset);
      entry.type = names[i].type;
      const absl::Span<const char> bytes = BytesOf(entry);
      block.append(bytes.data(), bytes.size());
      offset += names[i].name.size();
    }
    for (size_t i = first; i < last; ++i) block += names[i].name;
    if (last < names.size()) block.resize(kBlock);
    data += block;
    first = last;
  }
  return data;
}

bool FitsBesideInode(uint64_t xattrs, uint64_t tail) {
  return sizeof(Inode) + xattrs + tail <= kBlock;
}

}  // namespace

absl::Status ErofsWriter::WriteAt(uint64_t position, absl::Span<const char> data) {
  RETURN_IF_ERROR(budget_.SpendDisk(data.size()));
  while (!data.empty()) {
    const ssize_t count = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(position));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteError(errno, "cannot write the layer");
    position += static_cast<uint64_t>(count);
    data.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

uint64_t ErofsWriter::ReserveBlocks(uint64_t count) {
  const uint64_t position = end_;
  end_ += count * kBlock;
  return position;
}

// What belongs to an inode lies in one block.
uint64_t ErofsWriter::ReserveMeta(uint64_t size) {
  uint64_t position = RoundUp(meta_next_, kSlot);
  if (position + size > meta_end_) {
    position = ReserveBlocks(1);
    meta_end_ = end_;
  }
  meta_next_ = position + size;
  return position;
}

absl::StatusOr<uint64_t> ErofsWriter::AddInode(Inode inode, const std::string& xattrs,
                                               const std::string& tail) {
  inode.xattr_count = XattrCount(xattrs);
  inode.number = static_cast<uint32_t>(++inodes_);
  const uint64_t position = ReserveMeta(sizeof(Inode) + xattrs.size() + tail.size());
  const absl::Span<const char> head = BytesOf(inode);
  std::string bytes(head.data(), head.size());
  bytes.append(xattrs).append(tail);
  RETURN_IF_ERROR(WriteAt(position, bytes));
  return position / kSlot;
}

absl::Status ErofsWriter::BeginFile(const FileAttributes& attributes, uint64_t size) {
  ASSIGN_OR_RETURN(file_xattrs_, EncodeXattrs(attributes.xattrs));
  file_ = MakeInode(S_IFREG, attributes);
  file_.size = size;
  file_left_ = size;
  tail_.clear();
  const uint64_t rest = size % kBlock;
  const bool inlined = rest > 0 && FitsBesideInode(file_xattrs_.size(), rest);
  const uint64_t in_blocks = inlined ? size - rest : size;
  file_.SetLayout(inlined ? Layout::kInline : Layout::kPlain);
  file_position_ = ReserveBlocks(RoundUp(in_blocks, kBlock) / kBlock);
  file_blocks_end_ = file_position_ + in_blocks;
  if (end_ / kBlock > std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("the layer is larger than an image can be");
  }
  file_.block = in_blocks == 0 ? 0 : static_cast<uint32_t>(file_position_ / kBlock);
  return absl::OkStatus();
}

absl::Status ErofsWriter::Append(absl::Span<const char> data) {
  if (data.size() > file_left_) return absl::InternalError("a file has more data than announced");
  file_left_ -= data.size();
  const size_t here =
      static_cast<size_t>(std::min<uint64_t>(data.size(), file_blocks_end_ - file_position_));
  // Zeros stay holes of the image's file.
  if (!AllZero(data.first(here))) RETURN_IF_ERROR(WriteAt(file_position_, data.first(here)));
  file_position_ += here;
  tail_.append(data.data() + here, data.size() - here);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ErofsWriter::EndFile() {
  if (file_left_ != 0) return absl::InternalError("a file has less data than announced");
  return AddInode(file_, file_xattrs_, tail_);
}

absl::StatusOr<uint64_t> ErofsWriter::AddSymlink(const FileAttributes& attributes,
                                                 const std::string& target) {
  ASSIGN_OR_RETURN(const std::string xattrs, EncodeXattrs(attributes.xattrs));
  if (target.size() > kMaxPath) {
    return absl::InvalidArgumentError("the link's target is too long");
  }
  Inode inode = MakeInode(S_IFLNK, attributes);
  inode.size = target.size();
  if (FitsBesideInode(xattrs.size(), target.size())) {
    inode.SetLayout(Layout::kInline);
    return AddInode(inode, xattrs, target);
  }
  const uint64_t position = ReserveBlocks(1);
  inode.SetLayout(Layout::kPlain);
  inode.block = static_cast<uint32_t>(position / kBlock);
  RETURN_IF_ERROR(WriteAt(position, target));
  return AddInode(inode, xattrs, "");
}

absl::StatusOr<uint64_t> ErofsWriter::AddFifo(const FileAttributes& attributes) {
  ASSIGN_OR_RETURN(const std::string xattrs, EncodeXattrs(attributes.xattrs));
  return AddInode(MakeInode(S_IFIFO, attributes), xattrs, "");
}

absl::StatusOr<uint64_t> ErofsWriter::AddWhiteout() {
  // The device 0/0.
  return AddInode(MakeInode(S_IFCHR, {}), "", "");
}

// Finds a place for every folder's inode and data, before any of them is written: each names its
// own, its parent's and its children's inodes. Counts the names of all other inodes on the way.
absl::Status ErofsWriter::PlaceFolders(Node& node, std::map<uint64_t, uint32_t>* links) {
  for (auto& [name, child] : node.children) {
    if (!child->is_directory()) {
      ++(*links)[child->inode];
      continue;
    }
    RETURN_IF_ERROR(PlaceFolder(*child));
    RETURN_IF_ERROR(PlaceFolders(*child, links));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::PlaceFolder(Node& node) {
  ASSIGN_OR_RETURN(const std::string xattrs, EncodeXattrs(node.attributes.xattrs));
  const uint64_t rest = EncodeFolder(NamesIn(node, node)).size() % kBlock;
  const uint64_t tail = FitsBesideInode(xattrs.size(), rest) ? rest : 0;
  node.inode = ReserveMeta(sizeof(Inode) + xattrs.size() + tail) / kSlot;
  return absl::OkStatus();
}

absl::Status ErofsWriter::WriteFolders(Node& node, const Node& parent) {
  RETURN_IF_ERROR(WriteFolder(node, parent));
  for (auto& [name, child] : node.children) {
    if (child->is_directory()) RETURN_IF_ERROR(WriteFolders(*child, node));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::WriteFolder(Node& node, const Node& parent) {
  ASSIGN_OR_RETURN(const std::string xattrs, EncodeXattrs(node.attributes.xattrs));
  const std::string data = EncodeFolder(NamesIn(node, parent));
  const uint64_t rest = data.size() % kBlock;
  // The root's place has no room for data.
  const bool inlined = rest > 0 && &node != &parent && FitsBesideInode(xattrs.size(), rest);
  const uint64_t in_blocks = inlined ? data.size() - rest : data.size();
  Inode inode = MakeInode(S_IFDIR, node.attributes);
  inode.size = data.size();
  inode.xattr_count = XattrCount(xattrs);
  inode.number = static_cast<uint32_t>(++inodes_);
  inode.SetLayout(inlined ? Layout::kInline : Layout::kPlain);
  inode.links = kFolderLinks;
  for (const auto& [name, child] : node.children) inode.links += child->is_directory() ? 1 : 0;
  if (in_blocks > 0) {
    const uint64_t position = ReserveBlocks(RoundUp(in_blocks, kBlock) / kBlock);
    inode.block = static_cast<uint32_t>(position / kBlock);
    RETURN_IF_ERROR(WriteAt(position, absl::MakeConstSpan(data).first(in_blocks)));
  }
  const absl::Span<const char> head = BytesOf(inode);
  std::string bytes(head.data(), head.size());
  bytes.append(xattrs).append(data, in_blocks);
  return WriteAt(node.inode * kSlot, bytes);
}

absl::Status ErofsWriter::WriteLinkCounts(const std::map<uint64_t, uint32_t>& links) {
  for (const auto& [inode, count] : links) {
    if (count == 1) continue;
    RETURN_IF_ERROR(WriteAt(inode * kSlot + offsetof(Inode, links), BytesOf(count)));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::WriteSuperBlock() {
  erofs::SuperBlock super;
  super.root = static_cast<uint16_t>(kRootPosition / kSlot);
  super.inodes = inodes_;
  super.blocks = static_cast<uint32_t>(end_ / kBlock);
  std::copy(kUuid.begin(), kUuid.end(), super.uuid);
  if (end_ / kBlock > std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("the layer is larger than an image can be");
  }
  return WriteAt(erofs::kSuperOffset, BytesOf(super));
}

absl::Status ErofsWriter::Finish(Node& root) {
  std::map<uint64_t, uint32_t> links;
  root.inode = kRootPosition / kSlot;
  RETURN_IF_ERROR(PlaceFolders(root, &links));
  RETURN_IF_ERROR(WriteFolders(root, root));
  RETURN_IF_ERROR(WriteLinkCounts(links));
  RETURN_IF_ERROR(WriteSuperBlock());
  if (::ftruncate(fd_, static_cast<off_t>(end_)) != 0) {
    return WriteError(errno, "cannot write the layer");
  }
  return absl::OkStatus();
}

}  // namespace ferry::layers
