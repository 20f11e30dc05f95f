#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmmanager/layers/limits.h"

// Bytes that are read once, front to back, and blocking.
namespace ferry::layers {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // At most buffer.size() bytes; 0 at the end.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> buffer) = 0;
};

// A stretch of a file. The descriptor is its owner's, and its own position is not used.
class FileSource final : public ByteSource {
 public:
  FileSource(int fd, uint64_t offset, uint64_t size) : fd_(fd), offset_(offset), left_(size) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  const int fd_;
  uint64_t offset_;
  uint64_t left_;
};

// SHA-256 of what it was given.
class Sha256 {
 public:
  Sha256();
  void Update(absl::Span<const char> bytes);
  // "sha256:" and 64 hexadecimal digits. Once.
  std::string Finish();

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// Passes on what another one reads, and knows the digest of it.
class HashingSource final : public ByteSource {
 public:
  explicit HashingSource(ByteSource& inner) : inner_(inner) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

  // Reads what is left, and tells the digest of everything.
  absl::StatusOr<std::string> Finish();

 private:
  ByteSource& inner_;
  Sha256 hash_;
};

// Passes on what another one reads as long as the budget allows it.
class BoundedSource final : public ByteSource {
 public:
  BoundedSource(ByteSource& inner, Budget& budget) : inner_(inner), budget_(budget) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  ByteSource& inner_;
  Budget& budget_;
};

// Whether `text` is "sha256:" and 64 lower-case hexadecimal digits.
bool IsDigest(absl::string_view text);

}  // namespace ferry::layers
