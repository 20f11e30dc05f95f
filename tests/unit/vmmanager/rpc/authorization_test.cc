#include "vmmanager/rpc/authorization.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "ferry/v1/checkpoint.pb.h"
#include "ferry/v1/container.pb.h"
#include "ferry/v1/disk.pb.h"
#include "ferry/v1/guest.pb.h"
#include "ferry/v1/host.pb.h"
#include "ferry/v1/image.pb.h"
#include "ferry/v1/job.pb.h"
#include "ferry/v1/migration.pb.h"
#include "ferry/v1/snapshot.pb.h"
#include "ferry/v1/vm.pb.h"

namespace ferry::rpc {
namespace {

using identity::Role;
using identity::Roles;
using ::testing::HasSubstr;

Caller With(Roles roles) {
  Caller caller;
  caller.way = Caller::Way::kCertificate;
  caller.identity = {"somebody", roles};
  return caller;
}

std::set<std::string> MethodsOfTheApi() {
  std::set<std::string> methods;
  for (const google::protobuf::FileDescriptor* file :
       {v1::VmRef::descriptor()->file(), v1::AttachRequest::descriptor()->file(),
        v1::Host::descriptor()->file(), v1::Image::descriptor()->file(),
        v1::Container::descriptor()->file(), v1::Session::descriptor()->file(),
        v1::Snapshot::descriptor()->file(), v1::Checkpoint::descriptor()->file(),
        v1::Job::descriptor()->file(), v1::Disk::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const google::protobuf::ServiceDescriptor* service = file->service(i);
      for (int m = 0; m < service->method_count(); ++m) {
        methods.insert(absl::StrCat("/", service->full_name(), "/", service->method(m)->name()));
      }
    }
  }
  return methods;
}

TEST(AuthorizationTest, EveryMethodOfTheApiHasARuleAndEveryRuleAMethod) {
  const std::set<std::string> methods = MethodsOfTheApi();
  EXPECT_GT(methods.size(), 30u);
  for (const std::string& method : methods) {
    EXPECT_NE(RuleFor(method), nullptr) << method << " needs a line in authorization.cc";
  }
  for (const Rule& rule : Rules()) {
    if (!absl::StartsWith(rule.method, "/ferry.")) continue;
    EXPECT_TRUE(methods.contains(std::string(rule.method))) << rule.method << " does not exist";
  }
}

TEST(AuthorizationTest, WhatIsNotListedIsRefusedToEverybody) {
  const Caller mighty = With({Role::kViewer, Role::kOperator, Role::kAdmin, Role::kPeer});
  for (const char* method :
       {"", "/", "/ferry.v1.VmService/", "/ferry.v1.VmService/startVm",
        "/ferry.v1.VmService/StartVm/", "/ferry.v2.VmService/StartVm", "ferry.v1.VmService/StartVm",
        "/grpc.channelz.v1.Channelz/GetServers"}) {
    EXPECT_EQ(Authorize(mighty, method).code(), absl::StatusCode::kPermissionDenied) << method;
  }
}

TEST(AuthorizationTest, EnvironmentsAreForThoseWhoMayRunThings) {
  EXPECT_FALSE(SeesSecrets(With({Role::kViewer})));
  EXPECT_FALSE(SeesSecrets(With({Role::kPeer})));
  EXPECT_TRUE(SeesSecrets(With({Role::kViewer, Role::kOperator})));
  EXPECT_TRUE(SeesSecrets(With({Role::kAdmin})));
  EXPECT_TRUE(SeesSecrets(Caller{.way = Caller::Way::kLocal}));
}

TEST(AuthorizationTest, WithoutARoleNothingIsPermitted) {
  for (const Rule& rule : Rules()) {
    EXPECT_EQ(Authorize(With({}), rule.method).code(), absl::StatusCode::kPermissionDenied)
        << rule.method;
  }
}

TEST(AuthorizationTest, RolesPermitWhatTheyAreFor) {
  struct Case {
    const char* method;
    bool viewer, operates, admin, peer;
  };
  for (const Case& c : {
           Case{"/ferry.v1.VmService/ListVms", true, true, true, false},
           Case{"/ferry.v1.VmService/StopVm", false, true, true, false},
           Case{"/ferry.v1.VmService/SaveVm", false, true, true, false},
           Case{"/ferry.v1.VmService/SetVm", false, true, true, false},
           Case{"/ferry.v1.VmService/DeleteVm", false, false, true, false},
           Case{"/ferry.v1.GuestService/Attach", false, true, true, false},
           Case{"/ferry.v1.ImageService/ListImages", true, true, true, false},
           Case{"/ferry.v1.ImageService/GetImage", true, true, true, false},
           Case{"/ferry.v1.ImageService/ImportImage", false, true, true, false},
           Case{"/ferry.v1.ImageService/RemoveImage", false, true, true, false},
           Case{"/ferry.v1.ContainerService/CreateContainer", false, true, true, false},
           Case{"/ferry.v1.ContainerService/RemoveContainer", false, true, true, false},
           Case{"/ferry.v1.ContainerService/ListContainers", true, true, true, false},
           Case{"/ferry.v1.ContainerService/GetContainerStats", true, true, true, false},
           Case{"/ferry.v1.JobService/ListJobs", true, true, true, false},
           Case{"/ferry.v1.JobService/WatchJob", true, true, true, false},
           Case{"/ferry.v1.JobService/CancelJob", false, true, true, false},
           Case{"/ferry.v1.JobService/DismissJob", false, true, true, false},
           Case{"/ferry.v1.SnapshotService/LoadSnapshot", false, true, true, false},
           Case{"/ferry.v1.SnapshotService/ListSnapshots", true, true, true, false},
           Case{"/ferry.v1.DiskService/ListDisks", true, true, true, false},
           Case{"/ferry.v1.DiskService/AttachDisk", false, true, true, false},
           Case{"/ferry.v1.DiskService/CreateDisk", false, false, true, false},
           Case{"/ferry.v1.CheckpointService/CreateCheckpoint", false, true, true, false},
           Case{"/ferry.v1.CheckpointService/RevertToCheckpoint", false, true, true, false},
           Case{"/ferry.v1.CheckpointService/DeleteCheckpoint", false, true, true, false},
           Case{"/ferry.v1.CheckpointService/ListCheckpoints", true, true, true, false},
           Case{"/ferry.v1.CheckpointService/RestoreCheckpointAs", false, true, true, false},
           Case{"/ferry.v1.CheckpointService/DefineCheckpoint", false, false, true, false},
           Case{"/ferry.v1.MigrationService/Migrate", false, true, true, false},
           Case{"/ferry.v1.MigrationService/ImportSandbox", false, true, true, true},
           Case{"/ferry.v1.MigrationService/SettleSession", false, true, true, true},
           Case{"/ferry.v1.MigrationService/FinalizeSandbox", false, true, true, false},
           Case{"/ferry.v1.MigrationService/ListSessions", true, true, true, false},
           Case{"/grpc.health.v1.Health/Check", true, true, true, true},
       }) {
    EXPECT_EQ(Authorize(With({Role::kViewer}), c.method).ok(), c.viewer) << c.method;
    EXPECT_EQ(Authorize(With({Role::kOperator}), c.method).ok(), c.operates) << c.method;
    EXPECT_EQ(Authorize(With({Role::kAdmin}), c.method).ok(), c.admin) << c.method;
    EXPECT_EQ(Authorize(With({Role::kPeer}), c.method).ok(), c.peer) << c.method;
    EXPECT_TRUE(Authorize(Caller{.way = Caller::Way::kInsecure}, c.method).ok()) << c.method;
  }
}

TEST(AuthorizationTest, NoViewerChangesAnything) {
  for (const Rule& rule : Rules()) {
    if (!rule.changes || absl::EndsWith(rule.method, "/RecoverSession")) continue;
    EXPECT_FALSE(Authorize(With({Role::kViewer}), rule.method).ok()) << rule.method;
  }
}

TEST(AuthorizationTest, ForcingIsForAdminsAndPeersAskOnlyForWhatThisHostKnows) {
  v1::RecoverSessionRequest look;
  v1::RecoverSessionRequest local;
  local.set_local_only(true);
  v1::RecoverSessionRequest force;
  force.set_force(true);
  force.set_local_only(true);
  EXPECT_TRUE(AuthorizeRequest(With({Role::kViewer}), look).ok());
  EXPECT_TRUE(AuthorizeRequest(With({Role::kPeer}), local).ok());
  EXPECT_FALSE(AuthorizeRequest(With({Role::kPeer}), look).ok());
  EXPECT_TRUE(AuthorizeRequest(With({Role::kAdmin}), force).ok());
  for (Role role : {Role::kViewer, Role::kOperator, Role::kPeer}) {
    const absl::Status refused = AuthorizeRequest(With({role}), force);
    EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("it takes the role admin"));
  }
  const Rule* rule = RuleFor("/ferry.v1.MigrationService/RecoverSession");
  ASSERT_NE(rule, nullptr);
  EXPECT_FALSE(Changes(*rule, look));
  EXPECT_TRUE(Changes(*rule, force));
}

TEST(AuthorizationTest, OnlyAdminsNameFilesOfTheHost) {
  v1::StartVmRequest start;
  v1::SaveVmRequest save;
  v1::StopVmRequest stop;
  stop.set_save(true);
  v1::CreateCheckpointRequest checkpoint;
  checkpoint.add_disks()->set_name("root");
  checkpoint.mutable_options()->set_bypass_cache(true);
  const Caller operators = With({Role::kOperator});
  for (const google::protobuf::Message* plain :
       std::initializer_list<const google::protobuf::Message*>{&start, &save, &stop, &checkpoint}) {
    EXPECT_TRUE(AuthorizeRequest(operators, *plain).ok()) << plain->GetTypeName();
  }
  v1::StartVmRequest keyed_start;
  keyed_start.set_key_file("/k");
  v1::SaveVmRequest keyed_save;
  keyed_save.mutable_options()->set_key_file("/k");
  v1::CreateCheckpointRequest keyed_checkpoint = checkpoint;
  keyed_checkpoint.mutable_options()->set_key_file("/k");
  v1::CreateCheckpointRequest disk_of_checkpoint = checkpoint;
  disk_of_checkpoint.add_disks()->set_file("/f");
  v1::RestoreCheckpointAsRequest clone;
  clone.add_disks()->set_file("/f");
  checkpoint.set_memory_file("/f");
  start.set_from_file("/f");
  save.set_to_file("/f");
  stop.mutable_save_options()->set_key_file("/k");
  for (const google::protobuf::Message* naming :
       std::initializer_list<const google::protobuf::Message*>{
           &start, &save, &stop, &keyed_start, &keyed_save, &checkpoint, &keyed_checkpoint,
           &disk_of_checkpoint, &clone}) {
    EXPECT_EQ(AuthorizeRequest(operators, *naming).code(), absl::StatusCode::kPermissionDenied)
        << naming->ShortDebugString();
    EXPECT_TRUE(AuthorizeRequest(With({Role::kAdmin}), *naming).ok());
  }
}

TEST(AuthorizationTest, OnlyAdminsHaveFilesForgotten) {
  v1::CreateCheckpointRequest create;
  create.set_disk_only(true);
  EXPECT_TRUE(AuthorizeRequest(With({Role::kOperator}), create).ok());
  create.set_no_metadata(true);
  EXPECT_EQ(AuthorizeRequest(With({Role::kOperator}), create).code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(AuthorizeRequest(With({Role::kAdmin}), create).ok());
}

TEST(AuthorizationTest, OnlyAdminsShareFoldersOfTheHost) {
  v1::CreateVmRequest plain;
  plain.mutable_spec()->set_stays(true);
  v1::CreateVmRequest shares = plain;
  shares.mutable_spec()->add_shares()->set_host_path("/srv");
  v1::CreateContainerRequest own;
  own.mutable_new_vm()->add_shares()->set_host_path("/srv");
  v1::CreateContainerRequest in_vm;
  in_vm.set_vm("web");
  in_vm.mutable_spec()->add_mounts()->set_host_path("/srv");
  const Caller operates = With({Role::kOperator});
  EXPECT_TRUE(AuthorizeRequest(operates, plain).ok());
  EXPECT_TRUE(AuthorizeRequest(operates, in_vm).ok());
  EXPECT_EQ(AuthorizeRequest(operates, shares).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(AuthorizeRequest(operates, own).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(AuthorizeRequest(With({Role::kAdmin}), shares).ok());
  EXPECT_TRUE(AuthorizeRequest(With({Role::kAdmin}), own).ok());
}

}  // namespace
}  // namespace ferry::rpc
