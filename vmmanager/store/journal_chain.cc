#include "vmmanager/store/journal_chain.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <memory>

#include "absl/strings/escaping.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {
namespace {

std::string Number(uint64_t value) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
  return bytes;
}

}  // namespace

std::string ChainHash(const std::string& previous_hash, const JournalRecord& record) {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                  EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  for (const std::string& field :
       {previous_hash, Number(record.sequence), record.session_id, record.vm_id, record.kind,
        Number(record.epoch), record.detail}) {
    const std::string length = Number(field.size());
    EVP_DigestUpdate(context.get(), length.data(), length.size());
    EVP_DigestUpdate(context.get(), field.data(), field.size());
  }
  std::string hash(EVP_MD_size(EVP_sha256()), '\0');
  EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(hash.data()), nullptr);
  return hash;
}

absl::Status CheckFollows(const JournalHead& head, const JournalRecord& record) {
  if (record.sequence != head.sequence + 1) {
    return absl::DataLossError(
        StrCat("journal record ", head.sequence + 1, " is missing; the next one there is ",
               record.sequence, ". Do not let this host decide migrations from this journal"));
  }
  if (ChainHash(head.hash, record) != record.hash) {
    return absl::DataLossError(
        StrCat("journal record ", record.sequence,
               " is damaged: its hash does not fit. Do not let this host decide migrations from "
               "this journal"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeJournalId() {
  std::string id(16, '\0');
  // Two stores of one id would take each other's proofs.
  if (RAND_bytes(reinterpret_cast<unsigned char*>(id.data()), static_cast<int>(id.size())) != 1) {
    return absl::UnavailableError("the system gives no random numbers for a new journal's id");
  }
  return absl::BytesToHexString(id);
}

}  // namespace ferry::vm
