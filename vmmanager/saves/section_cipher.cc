#include "vmmanager/saves/section_cipher.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <array>
#include <utility>

#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr std::string_view kKeyPurpose = "ferry saved VM 1";

unsigned char* Bytes(char* text) { return reinterpret_cast<unsigned char*>(text); }
const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::array<unsigned char, 12> Nonce(const SealedPlace& place) {
  std::array<unsigned char, 12> nonce{};
  nonce[0] = static_cast<unsigned char>(place.section);
  nonce[1] = place.last ? 1 : 0;
  for (size_t i = 0; i < 8; ++i) nonce[4 + i] = static_cast<unsigned char>(place.number >> (8 * i));
  return nonce;
}

absl::StatusOr<SaveKey> FileKey(SaveKey key, std::string_view salt) {
  std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                        EVP_KDF_free);
  std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(kdf.get()),
                                                                    EVP_KDF_CTX_free);
  // OpenSSL takes them as if it might change them.
  std::string digest = "SHA256";
  std::string salt_copy(salt);
  std::string purpose(kKeyPurpose);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.bytes.data(), key.bytes.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt_copy.data(), salt_copy.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, purpose.data(), purpose.size()),
      OSSL_PARAM_construct_end()};
  SaveKey derived;
  if (context == nullptr ||
      EVP_KDF_derive(context.get(), derived.bytes.data(), derived.bytes.size(), parameters) != 1) {
    return absl::InternalError("OpenSSL cannot derive a saved file's key");
  }
  return derived;
}

}  // namespace

void SectionCipher::Free::operator()(evp_cipher_ctx_st* context) const {
  EVP_CIPHER_CTX_free(context);
}

SectionCipher::SectionCipher(Context sealing, Context opening, std::string_view prologue)
    : sealing_(std::move(sealing)), opening_(std::move(opening)), prologue_(prologue) {}

SectionCipher::Context SectionCipher::MakeContext(const SaveKey& file_key, bool sealing) {
  Context context(EVP_CIPHER_CTX_new());
  if (context == nullptr ||
      EVP_CipherInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, file_key.bytes.data(), nullptr,
                        sealing ? 1 : 0) != 1) {
    return nullptr;
  }
  return context;
}

absl::StatusOr<std::unique_ptr<SectionCipher>> SectionCipher::Make(const SaveKey& key,
                                                                   std::string_view salt,
                                                                   std::string_view prologue) {
  ASSIGN_OR_RETURN(const SaveKey file_key, FileKey(key, salt));
  Context sealing = MakeContext(file_key, true);
  Context opening = MakeContext(file_key, false);
  if (sealing == nullptr || opening == nullptr) {
    return absl::InternalError("OpenSSL has no AES-256-GCM");
  }
  return std::unique_ptr<SectionCipher>(
      new SectionCipher(std::move(sealing), std::move(opening), prologue));
}

absl::Status SectionCipher::Seal(const SealedPlace& place, std::string_view plain, char* out) {
  const auto nonce = Nonce(place);
  EVP_CIPHER_CTX* const context = sealing_.get();
  int count = 0;
  // Without a key and a cipher, it keeps those that it has.
  if (EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) != 1 ||
      EVP_EncryptUpdate(context, nullptr, &count, Bytes(prologue_),
                        static_cast<int>(prologue_.size())) != 1 ||
      EVP_EncryptUpdate(context, Bytes(out), &count, Bytes(plain),
                        static_cast<int>(plain.size())) != 1 ||
      EVP_EncryptFinal_ex(context, Bytes(out) + plain.size(), &count) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, out + plain.size()) != 1) {
    return absl::InternalError("OpenSSL cannot encrypt a saved file");
  }
  return absl::OkStatus();
}

bool SectionCipher::Open(const SealedPlace& place, std::string_view sealed, char* out) {
  if (sealed.size() < kTagBytes) return false;
  const auto nonce = Nonce(place);
  const size_t size = sealed.size() - kTagBytes;
  std::string tag(sealed.substr(size));
  EVP_CIPHER_CTX* const context = opening_.get();
  int count = 0;
  return EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
         EVP_DecryptUpdate(context, nullptr, &count, Bytes(prologue_),
                           static_cast<int>(prologue_.size())) == 1 &&
         EVP_DecryptUpdate(context, Bytes(out), &count, Bytes(sealed), static_cast<int>(size)) ==
             1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) == 1 &&
         EVP_DecryptFinal_ex(context, Bytes(out) + size, &count) == 1;
}

}  // namespace ferry::vm
