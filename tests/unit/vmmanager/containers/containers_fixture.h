#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "ferry/v1/migration.pb.h"
#include "tests/unit/vmmanager/images/images_fixture.h"
#include "tests/unit/vmmanager/next_step.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/containers/fake_container_machine.h"
#include "vmmanager/sandbox/fake_host.h"

namespace ferry::vm {

using ::testing::HasSubstr;

// What a migration copies if nobody says anything else.
inline constexpr v1::CopyStorage kAsNeeded = v1::COPY_STORAGE_UNSPECIFIED;

// One host with fakes below it, images in a folder, and guests that keep books of containers.
class ContainersTest : public ImagesTest {
 protected:
  ContainersTest() {
    EXPECT_TRUE(Add("web", {"base", "app"}, "serve").ok());
    EXPECT_TRUE(Add("other", {"base", "more"}, "serve").ok());
    Open();
  }
  void TearDown() override {
    Await(containers_->Close());
    Await(host_.Stop());
    Settle();
  }

  void Open() {
    ContainerInventory::Options options;
    options.scratch_folder = scratch_folder();
    options.audit = audit_.get();
    options.make_machine = [this](std::shared_ptr<UtilityVm> vm) {
      return std::make_unique<FakeContainerMachine>(Guest(vm->id()));
    };
    containers_ = std::make_unique<ContainerInventory>(*host_.inventory, std::move(options));
    const absl::Status loaded = Await(containers_->Load());
    EXPECT_TRUE(loaded.ok()) << loaded;
    Await(containers_->TakeUp(*store_));
    Settle();
  }
  // As if the daemon had died; the guests do not notice.
  void RestartDaemon() {
    Await(containers_->Close());
    former_.push_back(std::move(containers_));
    const absl::Status restarted = Await(host_.Restart());
    EXPECT_TRUE(restarted.ok()) << restarted;
    Reopen();
    Open();
  }

  std::string scratch_folder() const { return folder_.path() + "/containers"; }
  std::vector<std::string> ScratchFolders() const {
    if (!std::filesystem::exists(scratch_folder())) return {};
    return FilesIn(scratch_folder());
  }
  std::shared_ptr<UtilityVm> Boot(const std::string& name) {
    auto vm = Await(host_.Boot(name));
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *vm;
  }
  FakeContainerGuest& Guest(const std::string& vm_id) {
    std::unique_ptr<FakeContainerGuest>& guest = guests_of_containers_[vm_id];
    if (guest == nullptr) guest = std::make_unique<FakeContainerGuest>(io_.get_executor());
    return *guest;
  }

  static v1::CreateContainerRequest Request(const std::string& vm, const std::string& name) {
    v1::CreateContainerRequest request;
    if (!vm.empty()) request.set_vm(vm);
    if (vm.empty()) request.mutable_new_vm();
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_image("web");
    return request;
  }
  std::shared_ptr<VmContainer> Make(const v1::CreateContainerRequest& request) {
    auto made = Await(containers_->Create(request));
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  std::shared_ptr<VmContainer> Run(const v1::CreateContainerRequest& request) {
    auto container = Make(request);
    const absl::Status started = Await(container->Start());
    EXPECT_TRUE(started.ok()) << started;
    return container;
  }
  void Exit(const VmContainer& container, uint32_t code) {
    Guest(container.record().vm_id()).Exit(container.id(), {guest::ExitStatus::Kind::kCode, code});
    Settle();
  }
  size_t Rows() { return Await(host_.store.ListContainers())->size(); }
  std::vector<std::string> EventTypes() {
    Settle();
    std::vector<std::string> types;
    const auto events = Await(host_.store.ReadEvents(0, 1000));
    for (const EventRow& event : *events) types.push_back(event.type);
    return types;
  }
  // Nothing of any container is anywhere.
  void ExpectNothingLeft(const std::string& vm_id) {
    EXPECT_TRUE(Guest(vm_id).empty()) << testing::PrintToString(Guest(vm_id).mounts);
    EXPECT_EQ(Rows(), 0u);
    EXPECT_TRUE(store_->Pins().empty());
    EXPECT_TRUE(ScratchFolders().empty());
    EXPECT_TRUE(containers_->List().empty());
  }

  FakeGuests guests_{io_.get_executor()};
  FakeHost host_{io_.get_executor(), "host-a:1", folder_.path(), guests_};
  std::map<std::string, std::unique_ptr<FakeContainerGuest>> guests_of_containers_;  // by VM
  const std::unique_ptr<rpc::AuditLog> audit_ = *rpc::AuditLog::Open(folder_.path() + "/audit.log");
  std::unique_ptr<ContainerInventory> containers_;

 private:
  std::vector<std::unique_ptr<ContainerInventory>> former_;
};

}  // namespace ferry::vm
