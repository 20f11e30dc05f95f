#include "vmmanager/saves/memory_codec.h"

#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>  // the functions below become those for this very processor
#endif

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/saves/saved_file_format.h"

namespace ferry::vm {
namespace {

// A piece of memory from here on becomes frames as it is; copying it would cost more than the frame
// that is then not full.
constexpr size_t kFrameOfItsOwnBytes = 64ull * 1024;

// No level up to 19 looks back further than 8 MiB. A file that wants more wants to exhaust memory.
constexpr int kMaxWindowLog = 24;

absl::Status ZstdFailure(std::string_view what, size_t code) {
  return absl::InternalError(StrCat("cannot ", what, ": zstd says ", ZSTD_getErrorName(code)));
}

SealedPlace FramePlace(uint64_t number, bool last) {
  return SealedPlace{SealedPlace::Section::kMemory, last, number};
}

}  // namespace

void StoredMemoryHasher::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

StoredMemoryHasher::StoredMemoryHasher() : state_(XXH3_createState()) {
  XXH3_128bits_reset(state_.get());
}

void StoredMemoryHasher::Update(std::string_view bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  bytes_ += bytes.size();
}

StoredMemory StoredMemoryHasher::Result() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
  return StoredMemory{bytes_, hash.low64, hash.high64};
}

void MemoryEncoder::Free::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

absl::StatusOr<std::unique_ptr<MemoryEncoder>> MemoryEncoder::Make(const Settings& settings,
                                                                   SectionCipher* cipher) {
  std::unique_ptr<MemoryEncoder> encoder(new MemoryEncoder(cipher));
  encoder->pending_.resize(kMaxFrameBytes);
  if (cipher != nullptr) {
    encoder->sealed_.resize(kFrameHeaderBytes + kMaxFrameBytes + SectionCipher::kTagBytes);
  }
  if (settings.zstd) RETURN_IF_ERROR(encoder->StartZstd(settings));
  return encoder;
}

absl::Status MemoryEncoder::StartZstd(const Settings& settings) {
  zstd_.reset(ZSTD_createCCtx());
  if (zstd_ == nullptr) return absl::ResourceExhaustedError("no memory to compress with");
  // A libzstd without threads has a bound of 0.
  const int workers = std::min<int>(static_cast<int>(settings.workers),
                                    ZSTD_cParam_getBounds(ZSTD_c_nbWorkers).upperBound);
  const std::pair<ZSTD_cParameter, int> parameters[] = {
      {ZSTD_c_compressionLevel, settings.level},
      {ZSTD_c_checksumFlag, 1},
      {ZSTD_c_nbWorkers, workers > 1 ? workers : 0}};
  for (const auto& [parameter, value] : parameters) {
    const size_t code = ZSTD_CCtx_setParameter(zstd_.get(), parameter, value);
    if (ZSTD_isError(code)) return ZstdFailure("set up the compression", code);
  }
  return absl::OkStatus();
}

absl::Status MemoryEncoder::Write(std::string_view bytes, Sink sink) {
  raw_bytes_ += bytes.size();
  return zstd_ == nullptr ? Collect(bytes, sink) : Compress(bytes, false, sink);
}

void MemoryEncoder::FrameInPlace(char* frame, size_t bytes) {
  EncodeFrameHeader(bytes).copy(frame, kFrameHeaderBytes);
  hasher_.Update({frame, kFrameHeaderBytes + bytes});
  raw_bytes_ += bytes;
}

absl::Status MemoryEncoder::Finish(Sink sink) {
  if (zstd_ != nullptr) RETURN_IF_ERROR(Compress({}, true, sink));
  // Encrypted memory ends with a frame that says so, even if nothing is left for it.
  if (cipher_ != nullptr || pending_size_ > 0) {
    RETURN_IF_ERROR(GiveFrame({pending_.data(), pending_size_}, true, sink));
    pending_size_ = 0;
  }
  return Give(EncodeFrameHeader(0), sink);
}

absl::Status MemoryEncoder::Collect(std::string_view bytes, Sink sink) {
  while (bytes.size() >= kFrameOfItsOwnBytes) {
    RETURN_IF_ERROR(GivePending(sink));
    const std::string_view frame = bytes.substr(0, kMaxFrameBytes);
    RETURN_IF_ERROR(GiveFrame(frame, false, sink));
    bytes.remove_prefix(frame.size());
  }
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kMaxFrameBytes - pending_size_);
    std::memcpy(pending_.data() + pending_size_, bytes.data(), count);
    pending_size_ += count;
    bytes.remove_prefix(count);
    if (pending_size_ == kMaxFrameBytes) RETURN_IF_ERROR(GivePending(sink));
  }
  return absl::OkStatus();
}

absl::Status MemoryEncoder::Compress(std::string_view bytes, bool end, Sink sink) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  while (true) {
    ZSTD_outBuffer out{pending_.data(), kMaxFrameBytes, pending_size_};
    const size_t left =
        ZSTD_compressStream2(zstd_.get(), &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) return ZstdFailure("compress the memory", left);
    pending_size_ = out.pos;
    if (pending_size_ == kMaxFrameBytes) RETURN_IF_ERROR(GivePending(sink));
    if (end ? left == 0 : in.pos == in.size) return absl::OkStatus();
  }
}

absl::Status MemoryEncoder::GivePending(Sink sink) {
  if (pending_size_ == 0) return absl::OkStatus();
  return GiveFrame({pending_.data(), std::exchange(pending_size_, 0)}, false, sink);
}

absl::Status MemoryEncoder::GiveFrame(std::string_view content, bool last, Sink sink) {
  if (cipher_ == nullptr) {
    RETURN_IF_ERROR(Give(EncodeFrameHeader(content.size()), sink));
    return Give(content, sink);
  }
  const size_t size = content.size() + SectionCipher::kTagBytes;
  EncodeFrameHeader(size).copy(sealed_.data(), kFrameHeaderBytes);
  RETURN_IF_ERROR(
      cipher_->Seal(FramePlace(frames_++, last), content, sealed_.data() + kFrameHeaderBytes));
  return Give({sealed_.data(), kFrameHeaderBytes + size}, sink);
}

absl::Status MemoryEncoder::Give(std::string_view bytes, Sink sink) {
  hasher_.Update(bytes);
  return sink(bytes);
}

void MemoryDecoder::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

absl::StatusOr<std::unique_ptr<MemoryDecoder>> MemoryDecoder::Make(const Settings& settings,
                                                                   SectionCipher* cipher) {
  if (settings.stored.bytes < kFrameHeaderBytes) return DamagedSave("the memory is cut off");
  std::unique_ptr<MemoryDecoder> decoder(new MemoryDecoder(settings, cipher));
  decoder->wants_ = kFrameHeaderBytes;
  if (!settings.zstd) return decoder;
  decoder->zstd_.reset(ZSTD_createDCtx());
  if (decoder->zstd_ == nullptr) return absl::ResourceExhaustedError("no memory to unpack with");
  const size_t code =
      ZSTD_DCtx_setParameter(decoder->zstd_.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  if (ZSTD_isError(code)) return ZstdFailure("set up the unpacking", code);
  return decoder;
}

absl::Status MemoryDecoder::Take(char* bytes) {
  const size_t size = wants_;
  hasher_.Update({bytes, size});
  left_ -= size;
  header_next_ = !header_next_;
  return header_next_ ? TakeContent(bytes, size) : TakeHeader({bytes, size});
}

absl::Status MemoryDecoder::TakeHeader(std::string_view bytes) {
  wants_ = DecodeFrameHeader(bytes);
  if (wants_ == 0) return CheckEnd();
  const size_t overhead = cipher_ == nullptr ? 0 : SectionCipher::kTagBytes;
  if (wants_ < overhead || wants_ > kMaxFrameBytes + overhead) {
    return DamagedSave("the memory has a frame of a length that none can have");
  }
  // The end mark follows it.
  if (left_ < wants_ + kFrameHeaderBytes) {
    return DamagedSave("the memory has a frame that goes on after its end");
  }
  return absl::OkStatus();
}

absl::Status MemoryDecoder::TakeContent(char* bytes, size_t size) {
  wants_ = kFrameHeaderBytes;
  if (cipher_ != nullptr) {
    const bool last = left_ == kFrameHeaderBytes;
    if (!cipher_->Open(FramePlace(frames_, last), {bytes, size}, bytes)) {
      return DamagedSave(StrCat("frame ", frames_, " of the memory was altered, or moved"));
    }
    last_opened_ = last;
    size -= SectionCipher::kTagBytes;
  }
  ++frames_;
  content_ = {bytes, size};
  return absl::OkStatus();
}

absl::Status MemoryDecoder::CheckEnd() const {
  if (left_ != 0) return DamagedSave("the memory ends before its end");
  if (cipher_ != nullptr && !last_opened_) return DamagedSave("the memory's last frame is missing");
  if (zstd_ != nullptr && !zstd_ended_) return DamagedSave("the compressed memory has no end");
  if (raw_bytes_ != settings_.raw_bytes) {
    return DamagedSave(
        StrCat("the memory has ", raw_bytes_, " bytes and should have ", settings_.raw_bytes));
  }
  if (hasher_.Result() != settings_.stored) return DamagedSave("the memory was altered");
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> MemoryDecoder::NextPiece() {
  if (zstd_ != nullptr) return Unpack();
  const std::string_view piece = std::exchange(content_, {});
  RETURN_IF_ERROR(Count(piece.size()));
  return piece;
}

absl::StatusOr<std::string_view> MemoryDecoder::Unpack() {
  while (more_unpacked_ || !content_.empty()) {
    // Given more, zstd would begin another stream.
    if (zstd_ended_) return DamagedSave("the compressed memory goes on after its end");
    // One byte more than there should be, to see that there is not.
    if (unpacked_.empty()) {
      unpacked_.resize(std::min<uint64_t>(kMaxFrameBytes - 1, settings_.raw_bytes) + 1);
    }
    ZSTD_inBuffer in{content_.data(), content_.size(), 0};
    ZSTD_outBuffer out{unpacked_.data(), unpacked_.size(), 0};
    const size_t left = ZSTD_decompressStream(zstd_.get(), &out, &in);
    if (ZSTD_isError(left)) {
      return DamagedSave(StrCat("the memory cannot be unpacked: ", ZSTD_getErrorName(left)));
    }
    content_.remove_prefix(in.pos);
    zstd_ended_ = left == 0;
    more_unpacked_ = !zstd_ended_ && out.pos == out.size;
    RETURN_IF_ERROR(Count(out.pos));
    if (out.pos > 0) return std::string_view(unpacked_.data(), out.pos);
  }
  return std::string_view();
}

absl::Status MemoryDecoder::Count(size_t raw_bytes) {
  if (raw_bytes > settings_.raw_bytes - raw_bytes_) {
    return DamagedSave(
        StrCat("the memory has more than the ", settings_.raw_bytes, " bytes that it should have"));
  }
  raw_bytes_ += raw_bytes;
  return absl::OkStatus();
}

}  // namespace ferry::vm
