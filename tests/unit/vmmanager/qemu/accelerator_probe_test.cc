#include "vmmanager/qemu/accelerator_probe.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

TEST(AcceleratorProbeTest, RomStartsAtTheResetVectorAndHoldsTheCount) {
  const std::string rom = MakeLoopRom(0x01020304);
  ASSERT_EQ(rom.size(), 65536u);
  EXPECT_EQ(rom.substr(0xfff0, 5), std::string("\xea\x00\x00\x00\xf0", 5));
  EXPECT_EQ(rom.substr(0, 6), std::string("\x66\xb9\x04\x03\x02\x01", 6));
}

TEST(AcceleratorProbeTest, KvmMustNotBeSlower) {
  EXPECT_EQ(ChooseAccelerator(milliseconds(200), milliseconds(90)).accelerator, "kvm");
  EXPECT_EQ(ChooseAccelerator(milliseconds(200), milliseconds(200)).accelerator, "kvm");
  EXPECT_EQ(ChooseAccelerator(milliseconds(200), milliseconds(2000)).accelerator, "tcg");
}

TEST(AcceleratorProbeTest, KvmThatDoesNotFinishIsNotUsedAndPeopleAreToldWhy) {
  const AcceleratorChoice choice = ChooseAccelerator(milliseconds(200), milliseconds(-1));
  EXPECT_EQ(choice.accelerator, "tcg");
  EXPECT_NE(choice.reason.find("200 ms"), std::string::npos);
}

TEST(AcceleratorProbeTest, KvmIsUsedWhereSoftwareEmulationIsMissing) {
  EXPECT_EQ(ChooseAccelerator(milliseconds(-1), milliseconds(90)).accelerator, "kvm");
}

}  // namespace
}  // namespace ferry::vm
