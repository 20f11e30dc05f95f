#include "vmmanager/layers/image_builder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/blob_archive.h"
#include "vmmanager/layers/disk_space.h"
#include "vmmanager/layers/image_archive.h"
#include "vmmanager/layers/json_reader.h"
#include "vmmanager/layers/layer_builder.h"

namespace ferry::layers {
namespace {

constexpr char kPlainFile[] = "plain.tar";
constexpr size_t kCopyPiece = size_t{256} << 10;

constexpr std::array kKindNames = {
    std::pair{ArchiveKind::kAny, "any"}, std::pair{ArchiveKind::kOci, "oci"},
    std::pair{ArchiveKind::kDocker, "docker"}, std::pair{ArchiveKind::kRootfs, "rootfs"}};

enum class Packing { kNone, kKnown, kUnknown };

constexpr size_t kTarMagicPosition = 257;
constexpr absl::string_view kTarMagic = "ustar";

// By the first bytes. A tar begins with a name, which may look like anything.
Packing PackingOf(absl::string_view head) {
  if (head.size() > kTarMagicPosition &&
      absl::StartsWith(head.substr(kTarMagicPosition), kTarMagic)) {
    return Packing::kNone;
  }
  if (absl::StartsWith(head, "\x1f\x8b") || absl::StartsWith(head, "\x28\xb5\x2f\xfd")) {
    return Packing::kKnown;
  }
  for (const absl::string_view other : {"\xfd"
                                        "7zXZ",
                                        "BZh", "PK\x03\x04", "\x04\x22\x4d\x18", "LZIP"}) {
    if (absl::StartsWith(head, other)) return Packing::kUnknown;
  }
  return Packing::kNone;
}

absl::StatusOr<UniqueFd> NewFile(int folder, const std::string& name) {
  UniqueFd file(::openat(folder, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return WriteError(errno, absl::StrCat("cannot make ", name));
  return file;
}

absl::StatusOr<uint64_t> SizeOf(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, "cannot read the archive");
  return static_cast<uint64_t>(info.st_size);
}

// The archive without its compression, in a file without a name.
absl::StatusOr<UniqueFd> Unpack(int source, uint64_t size, Budget& budget, int output) {
  ASSIGN_OR_RETURN(UniqueFd plain, NewFile(output, kPlainFile));
  ::unlinkat(output, kPlainFile, 0);
  FileSource file(source, 0, size);
  Decompressor decompressed(file);
  BoundedSource bounded(decompressed, budget);
  std::vector<char> piece(kCopyPiece);
  while (true) {
    ASSIGN_OR_RETURN(const size_t count, bounded.Read(absl::MakeSpan(piece)));
    if (count == 0) return plain;
    RETURN_IF_ERROR(budget.SpendDisk(count));
    if (!WriteAll(plain.get(), absl::string_view(piece.data(), count))) {
      return WriteError(errno, "cannot unpack the archive");
    }
  }
}

absl::StatusOr<BuiltImage::Layer> Build(ByteSource& source, Whiteouts whiteouts, Budget& budget,
                                        int output, size_t number) {
  BuiltImage::Layer layer;
  layer.file = absl::StrCat("layer-", number);
  ASSIGN_OR_RETURN(const UniqueFd image, NewFile(output, layer.file));
  ASSIGN_OR_RETURN(const LayerSource built, BuildLayer(source, whiteouts, budget, image.get()));
  layer.diff_id = built.diff_id;
  layer.bytes = built.bytes;
  layer.entries = built.entries;
  return layer;
}

absl::Status BuildLayers(const BlobArchive& archive, const ImageParts& parts, Budget& budget,
                         int output, const LayerProgress& progress, BuiltImage* image) {
  for (size_t i = 0; i < parts.layers.size(); ++i) {
    const ImageParts::Layer& part = parts.layers[i];
    progress(i, parts.layers.size());
    const auto blob = archive.Open(part.path);
    if (absl::IsNotFound(blob.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("the image is not whole: ", blob.status().message()));
    }
    RETURN_IF_ERROR(blob.status());
    const std::string name = absl::StrCat("layer ", i + 1, " of ", parts.layers.size());
    HashingSource hashed(**blob);
    auto layer = Build(hashed, Whiteouts::kOci, budget, output, i);
    if (!layer.ok()) {
      return absl::Status(layer.status().code(),
                          absl::StrCat(name, ": ", layer.status().message()));
    }
    ASSIGN_OR_RETURN(const std::string digest, hashed.Finish());
    if (!part.digest.empty() && digest != part.digest) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " has the digest ", digest, ", not ", part.digest));
    }
    if (layer->diff_id != part.diff_id) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " unpacks to the digest ", layer->diff_id, ", not ", part.diff_id));
    }
    image->layers.push_back(*std::move(layer));
  }
  progress(parts.layers.size(), parts.layers.size());
  return absl::OkStatus();
}

absl::Status BuildRootfs(int fd, uint64_t size, Budget& budget, int output,
                         const LayerProgress& progress, BuiltImage* image) {
  progress(0, 1);
  FileSource file(fd, 0, size);
  ASSIGN_OR_RETURN(BuiltImage::Layer layer, Build(file, Whiteouts::kLiteral, budget, output, 0));
  if (layer.entries == 0) return absl::InvalidArgumentError("the archive holds no files");
  image->layers.push_back(std::move(layer));
  progress(1, 1);
  return absl::OkStatus();
}

}  // namespace

std::string ArchiveKindName(ArchiveKind kind) {
  for (const auto& [known, name] : kKindNames) {
    if (known == kind) return name;
  }
  return "";
}

absl::StatusOr<ArchiveKind> ParseArchiveKind(absl::string_view text) {
  for (const auto& [kind, name] : kKindNames) {
    if (name == text) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", Shown(text), "\" is no kind of archive: any, oci, docker or rootfs"));
}

std::string ToJsonText(const BuiltImage& image) {
  boost::json::array layers;
  for (const BuiltImage::Layer& layer : image.layers) {
    layers.push_back(boost::json::object{{"file", layer.file},
                                         {"diff_id", layer.diff_id},
                                         {"bytes", layer.bytes},
                                         {"entries", layer.entries}});
  }
  return boost::json::serialize(boost::json::object{{"kind", ArchiveKindName(image.kind)},
                                                    {"config", ToJson(image.config)},
                                                    {"layers", std::move(layers)}});
}

absl::StatusOr<BuiltImage> BuiltImageFromJson(absl::string_view text, const Limits& limits) {
  ASSIGN_OR_RETURN(const auto document, ParseObject(text, "the result"));
  BuiltImage image;
  ASSIGN_OR_RETURN(const std::string kind, StringAt(document, "kind"));
  ASSIGN_OR_RETURN(image.kind, ParseArchiveKind(kind));
  ASSIGN_OR_RETURN(const auto config, ObjectAt(document, "config"));
  ASSIGN_OR_RETURN(image.config, ConfigFromJson(config));
  ASSIGN_OR_RETURN(const auto layers, ObjectsAt(document, "layers"));
  std::set<std::string> files;
  for (const auto& json : layers) {
    BuiltImage::Layer layer;
    ASSIGN_OR_RETURN(layer.file, StringAt(json, "file"));
    ASSIGN_OR_RETURN(layer.diff_id, StringAt(json, "diff_id"));
    ASSIGN_OR_RETURN(layer.bytes, NumberAt(json, "bytes"));
    ASSIGN_OR_RETURN(layer.entries, NumberAt(json, "entries"));
    if (layer.file.empty() || absl::StrContains(layer.file, '/') || layer.file[0] == '.' ||
        !IsDigest(layer.diff_id) || !files.insert(layer.file).second) {
      return absl::InvalidArgumentError("the result names no layers");
    }
    image.layers.push_back(std::move(layer));
  }
  if (image.layers.empty() || image.layers.size() > limits.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the result has ", image.layers.size(), " layers"));
  }
  return image;
}

absl::StatusOr<BuiltImage> BuildImage(int source, ArchiveKind kind, const Limits& limits,
                                      int output, const LayerProgress& progress) {
  ASSIGN_OR_RETURN(uint64_t size, SizeOf(source));
  std::array<char, kTarMagicPosition + kTarMagic.size()> head{};
  const ssize_t got = ::pread(source, head.data(), head.size(), 0);
  const Packing packing =
      PackingOf(absl::string_view(head.data(), got < 0 ? 0 : static_cast<size_t>(got)));
  if (packing == Packing::kUnknown) {
    return absl::InvalidArgumentError(
        "the archive is packed in a way that is not understood; use a plain tar, gzip or zstd");
  }
  // What is unpacked here is read once more below, and each may be as much as is allowed.
  Budget budget(limits, output);
  Budget unpacking(limits, output);
  UniqueFd plain;
  int fd = source;
  if (packing == Packing::kKnown) {
    ASSIGN_OR_RETURN(plain, Unpack(source, size, unpacking, output));
    fd = plain.get();
    ASSIGN_OR_RETURN(size, SizeOf(fd));
  }
  BuiltImage image;
  image.kind = kind;
  if (kind == ArchiveKind::kRootfs) {
    RETURN_IF_ERROR(BuildRootfs(fd, size, budget, output, progress, &image));
    return image;
  }
  ASSIGN_OR_RETURN(const BlobArchive archive, BlobArchive::Read(fd, size));
  if (kind == ArchiveKind::kAny) {
    image.kind = IsOciLayout(archive)       ? ArchiveKind::kOci
                 : IsDockerArchive(archive) ? ArchiveKind::kDocker
                                            : ArchiveKind::kRootfs;
  }
  if (image.kind == ArchiveKind::kRootfs) {
    RETURN_IF_ERROR(BuildRootfs(fd, size, budget, output, progress, &image));
    return image;
  }
  ASSIGN_OR_RETURN(const ImageParts parts, image.kind == ArchiveKind::kOci
                                               ? FindOciImage(archive, limits)
                                               : FindDockerImage(archive, limits));
  image.config = parts.config;
  RETURN_IF_ERROR(BuildLayers(archive, parts, budget, output, progress, &image));
  return image;
}

}  // namespace ferry::layers
