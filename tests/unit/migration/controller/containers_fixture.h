#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/migration/controller/forcing_fixture.h"
#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/containers/container_moves.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/containers/fake_container_machine.h"

namespace ferry::migration {

// Two hosts with containers in their VMs, images in folders, and a folder that both see. Each host
// keeps books of its own of what is in a guest.
class ContainersTest : public ForcingTest {
 protected:
  // What a host has for its containers.
  struct Side {
    std::string folder;
    std::unique_ptr<vm::ImageStore> images;
    std::map<std::string, std::unique_ptr<vm::FakeContainerGuest>> guests;  // by VM
    std::unique_ptr<vm::ContainerInventory> containers;
    std::unique_ptr<vm::ContainerExports> exports;
  };

  void SetUp() override {
    ForcingTest::SetUp();
    shared_ = folder_.Make("shared");
    for (auto [host, side] : {std::pair{&a_, &on_a_}, std::pair{&b_, &on_b_}}) {
      side->folder = folder_.path() + (host == &a_ ? "/a" : "/b");
      OpenContainers(*host, *side);
      OpenImages(*side);
    }
  }

  void TearDown() override {
    ForcingTest::TearDown();
    for (Side* side : {&on_a_, &on_b_}) Await(side->containers->Close());
    Settle();
  }

  void OpenContainers(MigrationHost& host, Side& side) {
    vm::ContainerInventory::Options options;
    options.scratch_folder = side.folder + "/containers";
    options.make_machine = [this, &side](const std::shared_ptr<vm::UtilityVm>& vm) {
      return std::make_unique<vm::FakeContainerMachine>(Guest(side, vm->id()));
    };
    side.containers =
        std::make_unique<vm::ContainerInventory>(*host.host.inventory, std::move(options));
    EXPECT_TRUE(Await(side.containers->Load()).ok());
    side.exports = std::make_unique<vm::ContainerExports>(*side.containers);
    host.deps->containers = side.containers.get();
    host.deps->exports = side.exports.get();
    host.deps->limits.ask_again = milliseconds(5);
  }

  void OpenImages(Side& side) {
    former_images_.push_back(std::move(side.images));
    side.images = std::make_unique<vm::ImageStore>(
        io_.get_executor(), vm::ImageStore::Options{side.folder + "/images", {}});
    EXPECT_TRUE(Await(side.images->Open()).ok());
    Await(side.containers->TakeUp(*side.images));
    Settle();
  }

  // The host's daemon dies, with all that it knew, and another one is started on its state.
  void RestartDaemon(MigrationHost& host, Side& side) {
    Settle();
    Await(side.containers->Close());
    former_containers_.push_back(std::move(side.containers));
    former_exports_.push_back(std::move(side.exports));
    former_sessions_.push_back(std::move(host.sessions));
    auto claims = std::make_unique<SessionRegistry>(*host.deps);
    EXPECT_TRUE(Await(claims->Load(JournalTrust::kWhole)).ok());
    EXPECT_TRUE(Await(host.host.Restart(claims->Claims())).ok());
    former_sessions_.push_back(std::move(claims));
    former_deps_.push_back(std::move(host.deps));
    host.Open(Peers());
    OpenContainers(host, side);
    EXPECT_TRUE(Await(host.sessions->Load(JournalTrust::kWhole)).ok());
    Await(host.sessions->Recover());
    OpenImages(side);
  }

  vm::FakeContainerGuest& Guest(Side& side, const std::string& vm_id) {
    std::unique_ptr<vm::FakeContainerGuest>& guest = side.guests[vm_id];
    if (guest == nullptr) guest = std::make_unique<vm::FakeContainerGuest>(io_.get_executor());
    return *guest;
  }

  // The host has a layer of these bytes, for that owner.
  void Give(Side& side, const std::string& owner, const std::string& bytes) {
    auto folder = Await(side.images->MakeTempFolder(std::nullopt));
    ASSERT_TRUE(folder.ok()) << folder.status();
    vm::WriteFile((*folder)->path() + "/layer", bytes);
    const absl::Status given =
        Await(side.images->Adopt(owner, vm::DigestOf(bytes), "layer", *folder));
    EXPECT_TRUE(given.ok()) << given;
    Await((*folder)->Remove());
  }

  // A running container on the source, of layers with these bytes, with a scratch disk that both
  // hosts see. Returns its id.
  std::string RunContainer(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& name,
                           const std::vector<std::string>& layers, bool remove_when_stopped,
                           bool owns_vm = false) {
    vm::StoredContainer stored;
    stored.spec.set_name(name);
    stored.spec.set_image("web");
    stored.spec.set_remove_when_stopped(remove_when_stopped);
    stored.spec.mutable_scratch()->set_folder(shared_);
    const std::string id = vm::DigestOf(name).substr(std::string("sha256:").size());
    state::v1::ContainerRecord& record = stored.record;
    record.set_container_id(id);
    record.set_vm_id(vm->id());
    record.set_stage(state::v1::CONTAINER_STAGE_RUNNING);
    record.set_process_id(7);
    record.set_owns_vm(owns_vm);
    record.set_scratch_file(ScratchOf(id));
    for (const std::string& bytes : layers) {
      record.add_layers()->set_digest(vm::DigestOf(bytes));
      Give(on_a_, id, bytes);
    }
    vm::WriteFile(ScratchOf(id), vm::EmptyQcow2(vm::kMinScratchDisk));
    for (Side* side : {&on_a_, &on_b_}) {
      vm::FakeContainerGuest::Container& there = Guest(*side, vm->id()).containers[id];
      there.state = bridge::ContainerState::kRunning;
      there.init = std::make_shared<vm::FakeInit>(io_.get_executor(), record.process_id());
    }
    const absl::Status brought = Await(on_a_.containers->Bring(std::move(stored), vm));
    EXPECT_TRUE(brought.ok()) << brought;
    Await(on_a_.containers->VmArrived(vm->id()));
    Settle();
    return id;
  }

  // Tells the destination that it has what a container consists of where the source has it.
  absl::StatusOr<v1::BindContainerResponse> Bind(const std::string& session,
                                                 const std::string& container) {
    v1::BindContainerRequest request;
    request.set_session_id(session);
    request.set_source_container_id(container);
    return Await(b_.sessions->Bind(request));
  }

  std::string ScratchOf(const std::string& id) const { return shared_ + "/" + id + ".qcow2"; }
  bool HasScratch(const std::string& id) const { return std::filesystem::exists(ScratchOf(id)); }
  size_t Rows(MigrationHost& host) { return Await(host.host.store.ListContainers())->size(); }

  std::string shared_;
  Side on_a_;
  Side on_b_;

 private:
  std::vector<std::unique_ptr<ControllerDeps>> former_deps_;
  std::vector<std::unique_ptr<SessionRegistry>> former_sessions_;
  std::vector<std::unique_ptr<vm::ImageStore>> former_images_;
  std::vector<std::unique_ptr<vm::ContainerInventory>> former_containers_;
  std::vector<std::unique_ptr<vm::ContainerExports>> former_exports_;
};

}  // namespace ferry::migration
