#include "vmmanager/state/fingerprint_check.h"

#include <gmock/gmock.h>

#include <functional>

namespace ferry::vm {
namespace {

using state::v1::Fingerprint;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Fingerprint Whole() {
  Fingerprint whole;
  whole.set_backend("qemu");
  whole.set_backend_version("7.2.22");
  whole.set_accelerator("tcg");
  whole.set_machine_type("pc-q35-7.2");
  whole.set_cpu_model("max");
  whole.set_cpus(2);
  whole.set_memory_mb(256);
  whole.set_firmware_sha256(std::string(32, 'f'));
  whole.set_kernel_sha256(std::string(32, 'k'));
  whole.set_initrd_sha256(std::string(32, 'i'));
  whole.set_kernel_cmd_line("quiet");
  whole.add_devices("scsi 0:0 data qcow2 rw");
  whole.set_guest_link("virtio-serial");
  whole.add_cpu_features("avx");
  whole.add_cpu_features("sse2");
  return whole;
}

struct Row {
  const char* field;
  const char* source;
  const char* destination;
  std::function<void(Fingerprint&)> change;
};

const Row kRows[] = {
    {"backend", "qemu", "other", [](Fingerprint& f) { f.set_backend("other"); }},
    {"backend_version", "7.2.22", "8.0.0", [](Fingerprint& f) { f.set_backend_version("8.0.0"); }},
    {"accelerator", "tcg", "kvm", [](Fingerprint& f) { f.set_accelerator("kvm"); }},
    {"machine_type", "pc-q35-7.2", "pc-q35-7.1",
     [](Fingerprint& f) { f.set_machine_type("pc-q35-7.1"); }},
    {"cpu_model", "max", "Nehalem", [](Fingerprint& f) { f.set_cpu_model("Nehalem"); }},
    {"cpu_features", "avx, sse2", "none", [](Fingerprint& f) { f.clear_cpu_features(); }},
    {"cpus", "2", "3", [](Fingerprint& f) { f.set_cpus(3); }},
    {"memory_mb", "256", "512", [](Fingerprint& f) { f.set_memory_mb(512); }},
    {"firmware", "sha256 6666666666666666", "none",
     [](Fingerprint& f) { f.clear_firmware_sha256(); }},
    {"kernel", "sha256 6b6b6b6b6b6b6b6b", "none", [](Fingerprint& f) { f.clear_kernel_sha256(); }},
    {"initrd", "sha256 6969696969696969", "sha256 7a7a7a7a7a7a7a7a",
     [](Fingerprint& f) { f.set_initrd_sha256(std::string(32, 'z')); }},
    {"kernel_cmd_line", "quiet", "loud", [](Fingerprint& f) { f.set_kernel_cmd_line("loud"); }},
    {"device 0", "scsi 0:0 data qcow2 rw", "none", [](Fingerprint& f) { f.clear_devices(); }},
    {"device 1", "none", "more", [](Fingerprint& f) { f.add_devices("more"); }},
    {"guest_link", "virtio-serial", "vsock", [](Fingerprint& f) { f.set_guest_link("vsock"); }},
};

TEST(FingerprintCheck, EachFieldIsComparedAndNamed) {
  EXPECT_THAT(CompareFingerprints(Whole(), Whole()), IsEmpty());
  for (const Row& row : kRows) {
    Fingerprint destination = Whole();
    row.change(destination);
    const auto differences = CompareFingerprints(Whole(), destination);
    ASSERT_THAT(differences, SizeIs(1)) << row.field;
    EXPECT_EQ(differences[0].field(), row.field);
    EXPECT_EQ(differences[0].source(), row.source);
    EXPECT_EQ(differences[0].destination(), row.destination);
  }
}

TEST(FingerprintCheck, EveryFieldOfTheMessageHasARow) {
  // What is added to the message must be compared, too.
  for (int i = 0; i < Fingerprint::descriptor()->field_count(); ++i) {
    const std::string name = Fingerprint::descriptor()->field(i)->name();
    bool found = false;
    for (const Row& row : kRows) {
      Fingerprint changed = Whole();
      row.change(changed);
      Fingerprint only_this = changed;
      const auto* field = Fingerprint::descriptor()->field(i);
      only_this.GetReflection()->ClearField(&only_this, field);
      Fingerprint without = Whole();
      without.GetReflection()->ClearField(&without, field);
      // The row changes this field and no other.
      found = found || (only_this.SerializeAsString() == without.SerializeAsString() &&
                        changed.SerializeAsString() != Whole().SerializeAsString());
    }
    EXPECT_TRUE(found) << name;
  }
}

TEST(FingerprintCheck, DigestsThatBeginAlikeDifferAndAreShownWhole) {
  Fingerprint destination = Whole();
  destination.mutable_kernel_sha256()->back() = 'z';
  const auto differences = CompareFingerprints(Whole(), destination);
  ASSERT_THAT(differences, SizeIs(1));
  EXPECT_EQ(differences[0].field(), "kernel");
  EXPECT_THAT(differences[0].source(), testing::EndsWith("6b6b6b"));
  EXPECT_THAT(differences[0].destination(), testing::EndsWith("6b6b7a"));
}

TEST(FingerprintCheck, OnlyMissingFeaturesCount) {
  Fingerprint destination = Whole();
  destination.add_cpu_features("avx512f");
  EXPECT_THAT(CompareFingerprints(Whole(), destination), IsEmpty());
  Fingerprint silent = Whole();
  silent.clear_cpu_features();
  EXPECT_THAT(CompareFingerprints(silent, Whole()), IsEmpty());
  destination.mutable_cpu_features()->DeleteSubrange(0, 1);
  const auto differences = CompareFingerprints(Whole(), destination);
  ASSERT_THAT(differences, SizeIs(1));
  EXPECT_EQ(differences[0].source(), "avx");
}

TEST(FingerprintCheck, AllDifferencesAreInTheText) {
  Fingerprint destination = Whole();
  destination.set_memory_mb(512);
  destination.set_cpu_model("Nehalem");
  const auto differences = CompareFingerprints(Whole(), destination);
  const std::string text = ToText(differences);
  EXPECT_THAT(text, HasSubstr("cpu_model: source max, destination Nehalem"));
  EXPECT_THAT(text, HasSubstr("memory_mb: source 256, destination 512"));
  EXPECT_THAT(ToText(differences, "then", "now"), HasSubstr("cpu_model: then max, now Nehalem"));
}

}  // namespace
}  // namespace ferry::vm
