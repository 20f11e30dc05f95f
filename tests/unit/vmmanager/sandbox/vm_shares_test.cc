// VMs that stay on their host, and the folders of it that they share.
#include <filesystem>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/fake_file_reads.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/real_folder.h"

namespace ferry::vm {
namespace {

class VmSharesTest : public SandboxTest {
 protected:
  static v1::VmSpec Spec(const std::vector<std::string>& folders) {
    v1::VmSpec spec;
    spec.set_name("web");
    spec.set_stays(true);
    for (const std::string& folder : folders) spec.add_shares()->set_host_path(folder);
    return spec;
  }
  absl::StatusOr<std::shared_ptr<UtilityVm>> CreateOf(const v1::VmSpec& spec) {
    v1::CreateVmRequest request;
    *request.mutable_spec() = spec;
    return Await(host_.inventory->Create(request));
  }
};

TEST_F(VmSharesTest, AVmThatStaysCannotBeMigrated) {
  auto vm = CreateOf(Spec({folder_.path()}));
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE(Await((*vm)->Start()).ok());
  const absl::Status refused = (*vm)->OpenMigration("session-1", "host-b:1");
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rpc::ReasonOf(refused), "vm_stays");
  EXPECT_THAT(std::string(refused.message()), HasSubstr(folder_.path()));
  EXPECT_FALSE(rpc::NextStepOf(refused).empty());
  EXPECT_EQ((*vm)->state(), v1::VM_STATE_RUNNING);
  // Also by the next daemon.
  RestartDaemon();
  const auto again = host_.inventory->Find("web");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(rpc::ReasonOf((*again)->CheckMayLeave()), "vm_stays");
  EXPECT_EQ((*again)->document().virtual_machine.devices.shares.size(), 1u);
  EXPECT_TRUE(Boot("other")->CheckMayLeave().ok());
}

TEST_F(VmSharesTest, SharesAreRealPaths) {
  std::filesystem::create_directory(folder_.path() + "/real");
  std::filesystem::create_directory_symlink(folder_.path() + "/real", folder_.path() + "/link");
  v1::VmSpec spec = Spec({folder_.path() + "/link/", folder_.path() + "/link/../later"});
  spec.mutable_shares(1)->set_read_only(true);
  const auto vm = CreateOf(spec);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const auto& shares = (*vm)->document().virtual_machine.devices.shares;
  EXPECT_EQ(shares.at("0"), (schema::SharedFolder{folder_.path() + "/real", false}));
  // What is not there yet is found out when the VM starts.
  EXPECT_EQ(shares.at("1"), (schema::SharedFolder{folder_.path() + "/later", true}));
  EXPECT_EQ((*vm)->spec().shares(0).host_path(), folder_.path() + "/real");
}

TEST_F(VmSharesTest, WhatCannotBeSharedIsRefused) {
  v1::VmSpec moves = Spec({folder_.path()});
  moves.set_stays(false);
  std::vector<v1::VmSpec> bad = {moves,
                                 Spec({"relative"}),
                                 Spec({""}),
                                 Spec({"/" + std::string(5000, 'a')}),
                                 Spec(std::vector<std::string>(9, folder_.path())),
                                 Spec({folder_.path(), folder_.path() + "/."})};
  for (const v1::VmSpec& spec : bad) {
    const absl::Status refused = CreateOf(spec).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << spec.ShortDebugString();
  }
  EXPECT_THAT(std::string(CreateOf(moves).status().message()), HasSubstr("--stays"));
}

TEST_F(VmSharesTest, ADaemonThatStopsWhileAFolderIsLookedAtStartsNothing) {
  const auto vm = CreateOf(Spec({folder_.path()}));
  ASSERT_TRUE(vm.ok()) << vm.status();
  AsyncEvent answered(io_.get_executor());
  host_.reads.held_until = &answered;
  std::optional<absl::Status> started;
  auto start = [](std::shared_ptr<UtilityVm> vm, std::optional<absl::Status>* out) -> Task<void> {
    *out = co_await vm->Start();
  };
  Spawn(io_.get_executor(), start(*vm, &started));
  Settle();
  ASSERT_FALSE(started.has_value());
  Await((*vm)->Detach(milliseconds(0)));
  answered.Set();
  Settle();
  ASSERT_TRUE(started.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*started)) << *started;
  EXPECT_EQ(host_.System(**vm), nullptr);
}

TEST_F(VmSharesTest, AFolderThatHangsIsNamed) {
  FakeFileReads reads;
  reads.outcome = absl::DeadlineExceededError("it took too long");
  const absl::Status late = Await(FindRealPath(&reads, "/srv/data")).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(late.message()), HasSubstr("/srv/data cannot be looked at in time"));
}

TEST_F(VmSharesTest, FoldersThatAreNotThereAreToldFromThoseThatAre) {
  FakeFileReads reads;
  EXPECT_EQ(*Await(FindRealFolder(&reads, "/")), "/");
  EXPECT_EQ(*Await(FindRealFolder(&reads, folder_.path() + "/./")), folder_.path());
  EXPECT_EQ(Await(FindRealFolder(&reads, folder_.path() + "/none")).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Await(FindRealFolder(&reads, "none")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*Await(FindRealPath(&reads, folder_.path() + "/none/../x")), folder_.path() + "/x");
}

}  // namespace
}  // namespace ferry::vm
