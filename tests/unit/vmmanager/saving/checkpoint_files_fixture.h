#pragma once

#include <memory>
#include <string>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {

// A VM with two disks, and files that others have made for them.
class CheckpointFilesFixture : public CheckpointsTest {
 protected:
  // A file of its user's, as it is seen to be.
  void Put(const std::string& name, const std::string& below, bool empty = true,
           const std::string& below_format = "qcow2", uint64_t bytes = kDiskBytes) {
    std::ofstream(File(name)) << EmptyQcow2(kDiskBytes);
    DiskImage& image = host_.overlays.images[File(name)];
    image.format = "qcow2";
    image.bytes = bytes;
    image.below = below.empty() ? "" : File(below);
    image.below_format = below.empty() ? "" : below_format;
    image.empty = empty;
  }
  // Both disks are overlays over "<disk>-base.qcow2".
  std::shared_ptr<UtilityVm> BootOverBases() {
    auto vm = BootWithDisks();
    for (const std::string disk : {"root", "data"}) {
      Put(disk + "-base.qcow2", "");
      Put(disk + ".qcow2", disk + "-base.qcow2");
    }
    return vm;
  }
  static void Name(google::protobuf::RepeatedPtrField<v1::CheckpointDiskWish>* disks,
                   const std::string& disk, const std::string& file) {
    v1::CheckpointDiskWish* wish = disks->Add();
    wish->set_name(disk);
    wish->set_file(file);
  }
  v1::CreateCheckpointRequest Reusing(const std::string& name) {
    v1::CreateCheckpointRequest request = Request(name);
    request.set_reuse_existing(true);
    Name(request.mutable_disks(), "root", File("root-new.qcow2"));
    Name(request.mutable_disks(), "data", File("data-new.qcow2"));
    return request;
  }
  v1::DefineCheckpointRequest Definition(const std::string& name) {
    v1::DefineCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    Name(request.mutable_disks(), "root", File("root-base.qcow2"));
    Name(request.mutable_disks(), "data", File("data-base.qcow2"));
    return request;
  }
  absl::StatusOr<v1::Checkpoint> Define(const v1::DefineCheckpointRequest& request) {
    return Await(checkpoints_->Define(request));
  }
  std::string ReasonOfReuse() { return rpc::ReasonOf(Take(Reusing("x")).status()); }
};

}  // namespace ferry::vm
