#include "vmmanager/containers/empty_qcow2.h"

#include "absl/strings/str_cat.h"

// docs/interop/qcow2.txt of QEMU describes the format; all numbers are big-endian.
namespace ferry::vm {
namespace {

constexpr uint32_t kClusterBits = 16;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
// One entry of the first-level table stands for a cluster of second-level entries.
constexpr uint64_t kBytesPerEntry = kCluster / sizeof(uint64_t) * kCluster;

constexpr uint32_t kMagic = 0x514649fb;
constexpr uint32_t kVersion = 3;
constexpr uint64_t kExternalData = 1 << 2;  // among the incompatible features

uint64_t Number(std::string_view bytes, size_t offset, size_t size) {
  uint64_t number = 0;
  for (const char byte : bytes.substr(offset, size)) {
    number = number << 8 | static_cast<unsigned char>(byte);
  }
  return number;
}

class FileBytes {
 public:
  explicit FileBytes(uint64_t clusters) : bytes_(clusters * kCluster, '\0') {}

  template <typename Number>
  void Put(uint64_t offset, Number number) {
    for (size_t i = 0; i < sizeof(Number); ++i) {
      bytes_[offset + i] = static_cast<char>(number >> 8 * (sizeof(Number) - 1 - i));
    }
  }
  std::string Finish() && { return std::move(bytes_); }

 private:
  std::string bytes_;
};

uint64_t Divide(uint64_t number, uint64_t by) { return (number + by - 1) / by; }

}  // namespace

absl::Status CheckScratchSize(uint64_t size) {
  constexpr uint64_t kUnit = uint64_t{1} << 20;
  if (size >= kMinScratchDisk && size <= kMaxScratchDisk && size % kUnit == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "a scratch disk cannot have ", size, " bytes: it takes whole MiB, from 16 MiB to 8 TiB"));
}

std::string EmptyQcow2(uint64_t size) {
  // Header, table of reference counts, a block of them, and the first-level table.
  constexpr uint64_t kCountTable = kCluster;
  constexpr uint64_t kCountBlock = 2 * kCluster;
  constexpr uint64_t kFirstLevel = 3 * kCluster;
  const uint64_t entries = Divide(size, kBytesPerEntry);
  const uint64_t clusters = 3 + Divide(entries * sizeof(uint64_t), kCluster);
  FileBytes image(clusters);
  constexpr uint32_t kCountOrder = 4;  // counts of 16 bits
  image.Put<uint32_t>(0, kMagic);
  image.Put<uint32_t>(4, kVersion);
  image.Put<uint32_t>(20, kClusterBits);
  image.Put<uint64_t>(24, size);
  image.Put<uint32_t>(36, static_cast<uint32_t>(entries));
  image.Put<uint64_t>(40, kFirstLevel);
  image.Put<uint64_t>(48, kCountTable);
  image.Put<uint32_t>(56, 1);  // clusters of that table
  image.Put<uint32_t>(96, kCountOrder);
  image.Put<uint32_t>(100, kQcow2Header);
  image.Put<uint64_t>(kCountTable, kCountBlock);
  for (uint64_t cluster = 0; cluster < clusters; ++cluster) {
    image.Put<uint16_t>(kCountBlock + cluster * sizeof(uint16_t), 1);
  }
  return std::move(image).Finish();
}

absl::Status CheckStandsAlone(std::string_view start) {
  if (start.size() < kQcow2Header || Number(start, 0, 4) != kMagic ||
      Number(start, 4, 4) != kVersion) {
    return absl::FailedPreconditionError("it is no scratch disk");
  }
  const bool backed = Number(start, 8, 8) != 0;
  const bool elsewhere = (Number(start, 72, 8) & kExternalData) != 0;
  if (!backed && !elsewhere) return absl::OkStatus();
  return absl::FailedPreconditionError("it is a scratch disk that names another file");
}

uint64_t DiskBytesIn(std::string_view start) {
  constexpr size_t kSizeAt = 24;
  return Number(start, kSizeAt, sizeof(uint64_t));
}

}  // namespace ferry::vm
