#include "vmmanager/disks/disks.h"

#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kBytes = 1 << 20;

class DisksTest : public SandboxTest {
 protected:
  absl::StatusOr<v1::Disk> Create(const std::string& file, uint64_t bytes = kBytes,
                                  const std::string& format = "") {
    v1::CreateDiskRequest request;
    request.set_file(file);
    request.set_bytes(bytes);
    request.set_format(format);
    return Await(disks_.Create(request));
  }
  std::string FileOf(const std::string& name) { return folder_.path() + "/" + name; }

  Disks disks_{*host_.inventory, nullptr, host_.overlays, nullptr, std::nullopt};
};

TEST_F(DisksTest, AreMadeEmptyAndOnce) {
  const auto made = Create(FileOf("data.qcow2"));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->format(), "qcow2");
  EXPECT_EQ(made->bytes(), kBytes);
  EXPECT_TRUE(absl::IsAlreadyExists(Create(FileOf("data.qcow2")).status()));
}

TEST_F(DisksTest, WhatCannotBeMadeIsRefused) {
  EXPECT_THAT(Create("data.qcow2").status().message(), HasSubstr("absolute path"));
  EXPECT_THAT(Create("/folder/").status().message(), HasSubstr("absolute path"));
  EXPECT_THAT(Create("/d", 1000).status().message(), HasSubstr("a multiple of 512"));
  EXPECT_THAT(Create("/d", 0).status().message(), HasSubstr("a multiple of 512"));
  EXPECT_THAT(Create("/d", uint64_t{1} << 57).status().message(), HasSubstr("at most"));
  EXPECT_THAT(Create("/d", kBytes, "vmdk").status().message(), HasSubstr("use qcow2 or raw"));
}

TEST_F(DisksTest, AreListedWithWhatContainersWriteTo) {
  auto vm = Boot();
  ASSERT_TRUE(Create(FileOf("data.qcow2")).ok());
  v1::AttachDiskRequest request;
  request.set_vm("web");
  request.mutable_disk()->set_name("data");
  request.mutable_disk()->set_file(FileOf("data.qcow2"));
  std::ofstream(FileOf("data.qcow2")) << "disk";
  const auto attached = Await(disks_.Attach(request));
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->bytes(), kBytes);
  schema::Attachment scratch;
  scratch.path = FileOf("data.qcow2");
  scratch.name = "scratch-0123";
  ASSERT_TRUE(Await(vm->AttachDisk(scratch)).ok());
  scratch.name = "layer-4567";
  scratch.read_only = true;
  ASSERT_TRUE(Await(vm->AttachDisk(scratch)).ok());
  Boot("other");
  const auto all = Await(disks_.List(v1::ListDisksRequest()));
  ASSERT_EQ(all->disks_size(), 2);
  EXPECT_EQ(all->disks(0).name(), "data");
  EXPECT_EQ(all->disks(0).container_id(), "");
  EXPECT_EQ(all->disks(1).name(), "0123");
  EXPECT_EQ(all->disks(1).container_id(), "0123");
  v1::ListDisksRequest none;
  none.set_vm("none");
  EXPECT_TRUE(absl::IsNotFound(Await(disks_.List(none)).status()));
}

TEST_F(DisksTest, AVmsOwnAreNamedAsTheyAre) {
  Boot();
  ASSERT_TRUE(Create(FileOf("data.qcow2")).ok());
  std::ofstream(FileOf("data.qcow2")) << "disk";
  v1::AttachDiskRequest request;
  request.set_vm("web");
  request.mutable_disk()->set_name("scratch-data");
  request.mutable_disk()->set_file(FileOf("data.qcow2"));
  const auto attached = Await(disks_.Attach(request));
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(attached->name(), "scratch-data");
  v1::DetachDiskRequest detach;
  detach.set_vm("web");
  detach.set_disk("scratch-data");
  EXPECT_TRUE(Await(disks_.Detach(detach)).ok());
}

TEST_F(DisksTest, OneThatCannotBeLookedAtSaysWhy) {
  auto vm = Boot();
  schema::Attachment scratch;
  scratch.path = FileOf("gone");
  scratch.name = "scratch-0123";
  std::ofstream(scratch.path) << "disk";
  ASSERT_TRUE(Await(vm->AttachDisk(scratch)).ok());
  const auto all = Await(disks_.List(v1::ListDisksRequest()));
  ASSERT_EQ(all->disks_size(), 1);
  EXPECT_THAT(all->disks(0).trouble(), HasSubstr("cannot look at"));
}

class DiskMovesTest : public DisksTest {
 protected:
  void SetUp() override {
    vm_ = Boot();
    EXPECT_TRUE(Create(FileOf("data.qcow2")).ok());
    std::ofstream(FileOf("data.qcow2")) << "disk";
    v1::AttachDiskRequest request;
    request.set_vm("web");
    request.mutable_disk()->set_name("data");
    request.mutable_disk()->set_file(FileOf("data.qcow2"));
    EXPECT_TRUE(Await(disks_.Attach(request)).ok());
  }
  absl::StatusOr<v1::Disk> Move(const std::string& to, const std::string& disk = "data") {
    v1::MoveDiskRequest request;
    request.set_vm("web");
    request.set_disk(disk);
    request.set_file(to);
    return Await(disks_.Move(request));
  }
  DiskImage& Image() { return host_.overlays.images[FileOf("data.qcow2")]; }

  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(DiskMovesTest, AFileKeepsItsNameInAFolder) {
  const auto moved = Move("/elsewhere/");
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->file(), "/elsewhere/data.qcow2");
  EXPECT_EQ(moved->bytes(), kBytes);
}

TEST_F(DiskMovesTest, WhatHasNoRoomIsKnownBefore) {
  Image().used_bytes = 4096;
  host_.overlays.room.bytes = 4095;
  EXPECT_EQ(rpc::ReasonOf(Move("/elsewhere/").status()), "no_room");
  EXPECT_FALSE(host_.overlays.files.contains("/elsewhere/data.qcow2"));
  host_.overlays.room.bytes = 4096;
  EXPECT_TRUE(Move("/elsewhere/").ok());
}

TEST_F(DiskMovesTest, WhatOthersLieOverStays) {
  host_.overlays.images[FileOf("over.qcow2")] = {
      .format = "qcow2", .bytes = kBytes, .below = FileOf("data.qcow2"), .below_format = "qcow2"};
  std::ofstream(FileOf("over.qcow2")) << "disk";
  Boot("other");
  v1::AttachDiskRequest request;
  request.set_vm("other");
  request.mutable_disk()->set_name("over");
  request.mutable_disk()->set_file(FileOf("over.qcow2"));
  ASSERT_TRUE(Await(disks_.Attach(request)).ok());
  EXPECT_EQ(rpc::ReasonOf(Move("/elsewhere/").status()), "file_in_use");
}

TEST_F(DiskMovesTest, WhatMakesNoSenseIsRefused) {
  EXPECT_EQ(rpc::ReasonOf(Move("/elsewhere/", "none").status()), "no_such_disk");
  EXPECT_THAT(Move("data.qcow2").status().message(), HasSubstr("absolute path"));
  Image().below = "/base";
  EXPECT_THAT(Move("/elsewhere/").status().message(), HasSubstr("does not say of which format"));
}

}  // namespace
}  // namespace ferry::vm
