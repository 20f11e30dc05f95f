#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/saves/save_key.h"

struct evp_cipher_ctx_st;

namespace ferry::vm {

// Where a sealed piece stands in its file. No two pieces of a file stand at the same place, and
// each opens at its own only.
struct SealedPlace {
  enum class Section : uint8_t { kHead = 1, kMemory = 2, kTail = 3 };
  Section section = Section::kHead;
  bool last = false;    // of the section's pieces: without it, a cut would not be seen
  uint64_t number = 0;  // among them
};

// Encrypts what one saved file holds, piece by piece: AES-256-GCM under a key that HKDF-SHA256
// makes of the user's and the file's salt. The place is the nonce, and each piece vouches for the
// file's prologue, which holds the salt, so it opens in no other file.
class SectionCipher {
 public:
  static constexpr size_t kTagBytes = 16;

  static absl::StatusOr<std::unique_ptr<SectionCipher>> Make(const SaveKey& key,
                                                             std::string_view salt,
                                                             std::string_view prologue);

  // Writes plain.size() + kTagBytes to `out`.
  absl::Status Seal(const SealedPlace& place, std::string_view plain, char* out);
  // Writes sealed.size() - kTagBytes to `out`, which may be where `sealed` is. False if this is not
  // what was sealed for that place, or not with this key; what `out` holds then means nothing.
  bool Open(const SealedPlace& place, std::string_view sealed, char* out);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  using Context = std::unique_ptr<evp_cipher_ctx_st, Free>;

  SectionCipher(Context sealing, Context opening, std::string_view prologue);
  static Context MakeContext(const SaveKey& file_key, bool sealing);

  Context sealing_;
  Context opening_;
  std::string prologue_;
};

}  // namespace ferry::vm
