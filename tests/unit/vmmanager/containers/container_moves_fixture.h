#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/unit/vmmanager/containers/containers_fixture.h"
#include "vmmanager/containers/container_moves.h"

namespace ferry::vm {

// One host is both sides, one after the other: the VM leaves it, and comes again.
class ContainerMovesTest : public ContainersTest {
 protected:
  void SetUp() override {
    vm_ = Boot("vm");
    shared_ = folder_.Make("shared");
  }
  v1::CreateContainerRequest Shared(const std::string& name) {
    v1::CreateContainerRequest request = Request("vm", name);
    request.mutable_spec()->mutable_scratch()->set_folder(shared_);
    return request;
  }
  std::vector<state::v1::ContainerRecord> Export() {
    auto records = Await(exports_.Begin(vm_->id(), kAsNeeded));
    EXPECT_TRUE(records.ok()) << records.status();
    return *std::move(records);
  }
  // A machine with the disks of these containers, at the paths of another host.
  schema::ComputeSystem Machine(const std::vector<state::v1::ContainerRecord>& records) {
    schema::ComputeSystem document = vm_->document();
    auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
    for (const auto& record : records) {
      disks[absl::StrCat(record.scratch_disk().lun())].path = "/there/scratch";
      for (const auto& layer : record.layers()) {
        disks[absl::StrCat(layer.disk().lun())].path = "/there/layer";
      }
    }
    return document;
  }
  // The VM goes, and is expected from another host.
  std::shared_ptr<UtilityVm> GoAndCome(const std::vector<state::v1::ContainerRecord>& records) {
    const schema::ComputeSystem document = Machine(records);
    VmRow row;
    row.id = vm_->id();
    row.name = "vm";
    EXPECT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
    EXPECT_TRUE(Await(host_.inventory->Forget(vm_->id(), "elsewhere")).ok());
    auto incoming = host_.inventory->AddIncoming("session", row, vm_->spec(), document);
    EXPECT_TRUE(incoming.ok()) << incoming.status();
    return *incoming;
  }
  std::string PathAt(const UtilityVm& vm, uint32_t lun) {
    return vm.document()
        .virtual_machine.devices.scsi.at("0")
        .attachments.at(absl::StrCat(lun))
        .path;
  }

  // A container that has just come, with the VM that has it, and is not taken up yet. The guest is
  // the same one, wherever the VM is.
  std::shared_ptr<UtilityVm> BringBack(const state::v1::ContainerRecord& record) {
    Await(containers_->Close());
    EXPECT_TRUE(Await(host_.store.DeleteContainer(GuestIdOf(record))).ok());
    RestartDaemon();
    auto vm = *host_.inventory->Find("vm");
    EXPECT_TRUE(Await(containers_->Bring(*FromRecord(record), vm)).ok());
    return vm;
  }

  std::shared_ptr<UtilityVm> vm_;
  std::string shared_;
  ContainerExports exports_{*containers_};
  ScratchFiles scratch_{io_.get_executor(), folder_.path(), std::nullopt};
};

}  // namespace ferry::vm
