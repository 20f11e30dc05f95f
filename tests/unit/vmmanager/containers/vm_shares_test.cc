#include "vmmanager/containers/vm_shares.h"

#include "tests/unit/vmmanager/containers/containers_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

v1::ContainerMount Mount(const std::string& folder, const std::string& path, bool read_only) {
  v1::ContainerMount mount;
  mount.set_host_path(folder);
  mount.set_path(path);
  mount.set_read_only(read_only);
  return mount;
}

TEST(CheckMounts, RefusesWhatNoContainerCouldHave) {
  const auto check = [](const std::string& folder, const std::string& path) {
    v1::ContainerSpec spec;
    *spec.add_mounts() = Mount(folder, path, false);
    return CheckMounts(spec);
  };
  EXPECT_TRUE(check("/srv", "/in/it").ok());
  EXPECT_TRUE(check("/srv/../etc", "/procfs").ok());
  for (const char* folder : {"", "srv", "./srv"}) EXPECT_FALSE(check(folder, "/in").ok()) << folder;
  EXPECT_FALSE(check("/" + std::string(5000, 'a'), "/in").ok());
  EXPECT_FALSE(check(std::string("/a\0b", 4), "/in").ok());
  for (const char* path :
       {"", "/", "in", "/in/", "/a//b", "/a/../b", "/./a", "/proc", "/sys/x", "/dev/shm", "/a:b"}) {
    const absl::Status refused = check("/srv", path);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << path;
  }
  EXPECT_FALSE(check("/srv", "/" + std::string(2000, 'a')).ok());
  v1::ContainerSpec spec;
  *spec.add_mounts() = Mount("/a", "/in", false);
  *spec.add_mounts() = Mount("/b", "/in", false);
  EXPECT_FALSE(CheckMounts(spec).ok());
  spec.clear_mounts();
  for (int i = 0; i < 33; ++i) *spec.add_mounts() = Mount("/a", absl::StrCat("/in", i), false);
  EXPECT_FALSE(CheckMounts(spec).ok());
}

TEST(FindShare, TakesTheInnermostThatAllowsIt) {
  const std::map<std::string, schema::SharedFolder> shares = {
      {"0", {"/srv", false}}, {"1", {"/srv/www", true}}, {"2", {"/etc", true}}};
  const auto find = [&](const std::string& folder, bool read_only) {
    return FindShare(Mount(folder, "/in", read_only), folder, shares);
  };
  EXPECT_EQ(find("/srv", false)->source, "/run/gcs/s/0");
  EXPECT_EQ(find("/srv/www/a b", true)->source, "/run/gcs/s/1/a b");
  EXPECT_TRUE(find("/srv/www", true)->share_is_read_only);
  EXPECT_EQ(find("/srv/www/a", false)->source, "/run/gcs/s/0/www/a");
  EXPECT_EQ(find("/srv/www2", true)->source, "/run/gcs/s/0/www2");
  EXPECT_EQ(rpc::ReasonOf(find("/srv2", true).status()), "folder_not_shared");
  EXPECT_EQ(rpc::ReasonOf(find("/", true).status()), "folder_not_shared");
  const absl::Status read_only = find("/etc/x", false).status();
  EXPECT_EQ(rpc::ReasonOf(read_only), "share_read_only");
  EXPECT_THAT(rpc::NextStepOf(read_only), HasSubstr(":ro"));
  EXPECT_THAT(std::string(read_only.message()), HasSubstr("/etc (read-only)"));
  const std::map<std::string, schema::SharedFolder> all = {{"0", {"/", false}}};
  EXPECT_EQ(FindShare(Mount("/", "/in", false), "/", all)->source, "/run/gcs/s/0");
  EXPECT_EQ(FindShare(Mount("/a", "/in", false), "/a", all)->source, "/run/gcs/s/0/a");
}

class SharesOfContainersTest : public ContainersTest {
 protected:
  SharesOfContainersTest() {
    std::filesystem::create_directories(shared() + "/sub");
    std::filesystem::create_directory_symlink("/", shared() + "/out");
  }
  std::string shared() const { return folder_.path() + "/shared"; }

  std::shared_ptr<UtilityVm> BootShared(bool read_only) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("vm");
    request.mutable_spec()->set_stays(true);
    // By way of what is no real path.
    request.mutable_spec()->add_shares()->set_host_path(shared() + "/sub/..");
    request.mutable_spec()->mutable_shares(0)->set_read_only(read_only);
    auto vm = Await(host_.inventory->Create(request));
    EXPECT_TRUE(vm.ok()) << vm.status();
    const absl::Status started = Await((*vm)->Start());
    EXPECT_TRUE(started.ok()) << started;
    return *vm;
  }
  absl::Status Try(const std::string& folder, bool read_only) {
    auto request = Request("vm", "");
    *request.mutable_spec()->add_mounts() = Mount(folder, "/in", read_only);
    return Await(containers_->Create(request)).status();
  }
};

TEST_F(SharesOfContainersTest, AContainerSeesAFolderOfAShare) {
  const auto vm = BootShared(false);
  auto request = Request("vm", "one");
  *request.mutable_spec()->add_mounts() = Mount(shared() + "/sub", "/in", false);
  *request.mutable_spec()->add_mounts() = Mount(shared(), "/all", true);
  const auto container = Make(request);
  FakeContainerGuest& guest = Guest(vm->id());
  EXPECT_EQ(guest.directories.at("/run/gcs/s/0"), "ferry-share-0");
  const std::string made = guest.containers.at(container->id()).made_of.oci_specification;
  EXPECT_THAT(made, HasSubstr(R"({"destination":"/in","type":"bind","source":"/run/gcs/s/0/sub",)"
                              R"("options":["rbind","rprivate","nodev"]})"));
  EXPECT_THAT(made, HasSubstr(R"({"destination":"/all","type":"bind","source":"/run/gcs/s/0",)"
                              R"("options":["rbind","rprivate","nodev","rro"]})"));
  // It is there already for the next one.
  EXPECT_TRUE(Try(shared(), true).ok());
  ASSERT_TRUE(Await(containers_->Remove(container, false)).ok());
  EXPECT_EQ(guest.directories.size(), 1u);
}

TEST_F(SharesOfContainersTest, WhatTheVmDoesNotShareIsRefused) {
  const auto vm = BootShared(true);
  EXPECT_EQ(rpc::ReasonOf(Try(folder_.path(), true)), "folder_not_shared");
  EXPECT_EQ(rpc::ReasonOf(Try(shared() + "/..", true)), "folder_not_shared");
  EXPECT_EQ(rpc::ReasonOf(Try(shared() + "/out", true)), "folder_not_shared");
  EXPECT_EQ(rpc::ReasonOf(Try(shared() + "/out/etc", true)), "folder_not_shared");
  // Nor is told what else this host has, or where its links lead.
  EXPECT_EQ(rpc::ReasonOf(Try(folder_.path() + "/none", true)), "folder_not_shared");
  EXPECT_THAT(std::string(Try(shared() + "/out", true).message()),
              HasSubstr("the folder " + shared() + "/out lies in no share"));
  EXPECT_EQ(rpc::ReasonOf(Try(shared(), false)), "share_read_only");
  const absl::Status missing = Try(shared() + "/none", true);
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("there is no folder"));
  EXPECT_TRUE(Guest(vm->id()).calls.empty());
  EXPECT_TRUE(containers_->List().empty());
}

TEST_F(SharesOfContainersTest, AVmThatMayMoveHasNoFoldersOfItsHost) {
  Boot("vm");
  const absl::Status refused = Try(shared(), true);
  EXPECT_EQ(rpc::ReasonOf(refused), "vm_may_move");
  EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("--stays"));
  auto request = Request("", "own");
  *request.mutable_spec()->add_mounts() = Mount(shared(), "/in", true);
  const absl::Status own = Await(containers_->Create(request)).status();
  EXPECT_EQ(rpc::ReasonOf(own), "vm_may_move");
  EXPECT_THAT(std::string(own.message()), HasSubstr("could not move with the container"));
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(SharesOfContainersTest, AVmOfItsOwnHasTheContainersFolders) {
  auto request = Request("", "own");
  request.mutable_new_vm()->set_stays(true);
  request.mutable_new_vm()->add_shares()->set_host_path(shared());
  *request.mutable_spec()->add_mounts() = Mount(shared(), "/in", false);
  const auto container = Make(request);
  EXPECT_TRUE(container->vm().spec().stays());
  EXPECT_EQ(Guest(container->vm().id()).directories.size(), 1u);
  // One that is not shared leaves no VM.
  request.mutable_spec()->set_name("other");
  *request.mutable_spec()->add_mounts() = Mount("/etc", "/etc2", false);
  EXPECT_EQ(rpc::ReasonOf(Await(containers_->Create(request)).status()), "folder_not_shared");
  EXPECT_EQ(host_.inventory->List().size(), 1u);
}

}  // namespace
}  // namespace ferry::vm
