#include "migration/commit/proof.h"

#include <gtest/gtest.h>

#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

constexpr size_t kMaxField = 64 * 1024;  // what a reader takes

Proof Told(const std::string& detail, uint64_t heard = 0) {
  Proof proof;
  proof.kind = ProofKind::kAbort;
  proof.session_id = "session";
  proof.vm_id = "vm";
  proof.epoch = 4;
  proof.plan_digest = "plan";
  proof.journal_id = "journal";
  proof.detail = detail;
  if (heard == 0) return proof;
  proof.heard_sequence = heard;
  proof.heard_hash = std::string(32, '\xab');
  return proof;
}

absl::StatusOr<Proof> Sent(const Proof& proof) {
  return DecodeProof(EncodeProof(proof, "key"), "key");
}

TEST(ProofDetail, ARemarkThatLooksLikeWhatWasHeardIsNone) {
  const std::string remark = StrCat("why heard 12 ", std::string(64, 'a'));
  for (const std::string& detail : {remark, remark + kLostMark, remark + remark}) {
    const auto proof = Sent(Told(detail));
    ASSERT_TRUE(proof.ok()) << proof.status();
    EXPECT_EQ(proof->heard_sequence, 0u) << detail;
    EXPECT_EQ(proof->heard_hash, "");
    EXPECT_TRUE(proof->detail.starts_with("why heard 12 ")) << proof->detail;
    EXPECT_EQ(proof->detail.ends_with(kLostMark), detail.ends_with(kLostMark));
    // What was heard comes after it, and counts.
    EXPECT_EQ(Sent(Told(detail, 7)).value(), Told(detail, 7));
  }
}

TEST(ProofDetail, WhatIsNoHashWasNotHeard) {
  Proof proof = Told("why", 7);
  for (const size_t size : {size_t{0}, size_t{31}, size_t{33}, kMaxField}) {
    proof.heard_hash = std::string(size, 'h');
    EXPECT_EQ(Sent(proof).value(), Told("why")) << size;
  }
}

TEST(ProofDetail, OneThatIsTooLongIsCut) {
  for (const size_t size : {kMaxField - 200, kMaxField, kMaxField + 1, 3 * kMaxField}) {
    for (const uint64_t heard : {0, 7}) {
      const std::string text(size, 'x');
      const auto proof = Sent(Told(text + kLostMark, heard));
      ASSERT_TRUE(proof.ok()) << size << ": " << proof.status();
      EXPECT_EQ(proof->heard_sequence, heard);
      EXPECT_TRUE(proof->detail.ends_with(kLostMark));
      EXPECT_GT(proof->detail.size(), kMaxField - 300);
    }
  }
}

TEST(ProofDetail, IsNotCutWithinACharacter) {
  std::string text;
  while (text.size() < 2 * kMaxField) text += "\xe2\x82\xac";  // three bytes each
  for (const char* shift : {"", "x", "xx"}) {
    const auto proof = Sent(Told(shift + text));
    ASSERT_TRUE(proof.ok()) << proof.status();
    EXPECT_TRUE(proof->detail.ends_with("\xe2\x82\xac"));
  }
}

}  // namespace
}  // namespace ferry::migration
