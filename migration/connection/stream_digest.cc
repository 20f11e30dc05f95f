#include "migration/connection/stream_digest.h"

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>  // the functions below become those for this very processor
#endif

#include "absl/strings/str_format.h"

namespace ferry::migration {

std::string StreamDigest::ToHex() const { return absl::StrFormat("%016x%016x", high, low); }

void StreamHasher::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

StreamHasher::StreamHasher() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }

void StreamHasher::Update(std::string_view bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  bytes_ += bytes.size();
}

StreamDigest StreamHasher::Digest() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
  return StreamDigest{bytes_, hash.low64, hash.high64};
}

}  // namespace ferry::migration
