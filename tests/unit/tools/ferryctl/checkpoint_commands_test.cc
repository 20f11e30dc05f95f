#include <gmock/gmock.h>

#include <utility>
#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Checkpoint Taken(const std::string& name, const std::string& parent) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(name);
  checkpoint.set_parent(parent);
  checkpoint.set_whole(true);
  checkpoint.set_state(v1::VM_STATE_RUNNING);
  checkpoint.set_memory_file("/m");
  checkpoint.add_disks()->set_name("root");
  checkpoint.add_disks()->set_name("data");
  checkpoint.set_stood_still_us(14'000);
  return checkpoint;
}

class CheckpointScript final : public v1::CheckpointService::CallbackService, public Scripted {
 public:
  using Scripted::Scripted;

  grpc::ServerUnaryReactor* CreateCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::CreateCheckpointRequest* request,
                                             v1::Checkpoint* response) override {
    v1::Checkpoint taken = Taken("before-upgrade", "");
    taken.set_quiesced(request->quiesce() && knows_quiesce);
    return Serve(context, request, response, &create, taken);
  }
  grpc::ServerUnaryReactor* RevertToCheckpoint(grpc::CallbackServerContext* context,
                                               const v1::RevertToCheckpointRequest* request,
                                               v1::Checkpoint* response) override {
    return Serve(context, request, response, &revert, Taken("before-upgrade", ""));
  }
  grpc::ServerUnaryReactor* DeleteCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::DeleteCheckpointRequest* request,
                                             v1::DeleteCheckpointResponse* response) override {
    return Serve(context, request, response, &remove, v1::DeleteCheckpointResponse());
  }
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override {
    v1::ListCheckpointsResponse all;
    *all.add_checkpoints() = Taken("base", "");
    *all.add_checkpoints() = Taken("tuned", "base");
    all.mutable_checkpoints(1)->set_current(true);
    return Serve(context, request, response, &list, all);
  }

  grpc::ServerUnaryReactor* RestoreCheckpointAs(grpc::CallbackServerContext* context,
                                                const v1::RestoreCheckpointAsRequest* request,
                                                v1::Vm* response) override {
    v1::Vm vm;
    vm.set_name("web-2");
    vm.set_state(request->disk_only() ? v1::VM_STATE_STOPPED : v1::VM_STATE_SAVED);
    return Serve(context, request, response, &restore, vm);
  }
  grpc::ServerUnaryReactor* DefineCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::DefineCheckpointRequest* request,
                                             v1::Checkpoint* response) override {
    return Serve(context, request, response, &define, Taken("before-upgrade", ""));
  }

  v1::RestoreCheckpointAsRequest restore;
  v1::DefineCheckpointRequest define;
  v1::CreateCheckpointRequest create;
  v1::RevertToCheckpointRequest revert;
  v1::DeleteCheckpointRequest remove;
  v1::ListCheckpointsRequest list;
  bool knows_quiesce = true;  // otherwise it is an older daemon
};

class CheckpointCommandsTest : public ServedCommandsTest {
 protected:
  CheckpointCommandsTest() { Serve({&script_}); }

  int Checkpoint(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "checkpoint");
    return Ferryctl(std::move(arguments));
  }
  int Create(std::vector<const char*> flags) {
    flags.insert(flags.begin(), {"create", "web", "before-upgrade"});
    return Checkpoint(std::move(flags));
  }
  // A wrong usage, which the daemon does not hear of.
  void ExpectCreateUsage(std::vector<const char*> flags, const std::string& word) {
    script_.calls = 0;
    EXPECT_EQ(Create(std::move(flags)), kUsage) << word;
    EXPECT_THAT(said_, HasSubstr(word));
    EXPECT_EQ(script_.calls, 0);
  }

  CheckpointScript script_{io_.get_executor()};
};

TEST_F(CheckpointCommandsTest, CreateWithoutFlagsAsksForNothingMore) {
  EXPECT_EQ(Create({}), kOk);
  EXPECT_EQ(printed_,
            "checkpoint before-upgrade of VM web: memory and 2 disks, stood still for 14 ms\n");
  v1::CreateCheckpointRequest plain;
  plain.set_vm("web");
  plain.set_name("before-upgrade");
  EXPECT_EQ(script_.create.SerializeAsString(), plain.SerializeAsString());
  EXPECT_EQ(Create({"-o", "json"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\"stood_still_us\": \"14000\""));
}

TEST_F(CheckpointCommandsTest, CreateSaysHowMemoryAndDisksAreKept) {
  EXPECT_EQ(Create({"--live", "--paused", "--description", "as it was", "--memspec", "/m",
                    "--diskspec", "root,file=/r", "--diskspec", "data,snapshot=no", "--compress",
                    "zstd", "--compress-level", "3", "--compress-workers", "2", "--bypass-cache",
                    "--key-file", "/k"}),
            kOk);
  const v1::CreateCheckpointRequest& asked = script_.create;
  EXPECT_TRUE(asked.live() && asked.paused());
  EXPECT_FALSE(asked.disk_only() || asked.memory_only() || asked.halt());
  EXPECT_EQ(asked.description(), "as it was");
  EXPECT_EQ(asked.memory_file(), "/m");
  ASSERT_EQ(asked.disks_size(), 2);
  EXPECT_EQ(asked.disks(0).file(), "/r");
  EXPECT_TRUE(asked.disks(1).left_out());
  EXPECT_EQ(asked.options().compression(), v1::SAVE_COMPRESSION_ZSTD);
  EXPECT_EQ(asked.options().compression_level(), 3);
  EXPECT_EQ(asked.options().compression_workers(), 2u);
  EXPECT_TRUE(asked.options().bypass_cache());
  EXPECT_EQ(asked.options().key_file(), "/k");
  EXPECT_THAT(printed_, HasSubstr("; it is paused\n"));
}

TEST_F(CheckpointCommandsTest, CreateOfDisksOrMemoryOnly) {
  EXPECT_EQ(Create({"--disk-only", "--halt", "--diskspec", "data,snapshot=no"}), kOk);
  EXPECT_TRUE(script_.create.disk_only() && script_.create.halt());
  EXPECT_FALSE(script_.create.quiesce());
  EXPECT_THAT(printed_, HasSubstr("; it is stopped\n"));
  EXPECT_EQ(Create({"--quiesce", "--disk-only"}), kOk);
  EXPECT_TRUE(script_.create.disk_only() && script_.create.quiesce());
  EXPECT_EQ(
      Create({"--memory-only", "--live", "--memspec", "/m", "--diskspec", "data,snapshot=no"}),
      kOk);
  EXPECT_TRUE(script_.create.memory_only() && script_.create.live());
}

TEST_F(CheckpointCommandsTest, AnOlderDaemonThatDoesNotQuiesceIsTold) {
  script_.knows_quiesce = false;
  for (const char* format : {"table", "json"}) {
    EXPECT_EQ(Create({"--quiesce", "--disk-only", "-o", format}), kRefused) << format;
    EXPECT_EQ(printed_, "") << format;
    EXPECT_THAT(said_,
                HasSubstr("before-upgrade was taken without --quiesce: this ferryd is older"));
    EXPECT_THAT(said_, HasSubstr("ferryctl checkpoint delete web before-upgrade"));
  }
  EXPECT_EQ(Create({"--disk-only"}), kOk);
}

TEST_F(CheckpointCommandsTest, WhatMakesNoSenseTogetherIsRefused) {
  ExpectCreateUsage({"--live", "--disk-only"}, "--disk-only");
  ExpectCreateUsage({"--halt", "--paused"}, "--halt");
  ExpectCreateUsage({"--disk-only", "--memory-only"}, "--memory-only");
  ExpectCreateUsage({"--disk-only", "--memspec", "/m"}, "--memspec");
  ExpectCreateUsage({"--quiesce"}, "--disk-only");
  ExpectCreateUsage({"--quiesce", "--live"}, "--disk-only");
  ExpectCreateUsage({"--quiesce", "--memory-only"}, "--disk-only");
  ExpectCreateUsage({"--disk-only", "--compress", "none"}, "--compress");
  ExpectCreateUsage({"--disk-only", "--compress-level", "1"}, "--compress-level");
  ExpectCreateUsage({"--disk-only", "--compress-workers", "1"}, "--compress-workers");
  ExpectCreateUsage({"--disk-only", "--bypass-cache"}, "--bypass-cache");
  ExpectCreateUsage({"--disk-only", "--key-file", "/k"}, "--key-file");
  ExpectCreateUsage({"--memory-only", "--diskspec", "root,snapshot=external"},
                    "\"root\" cannot be part of a checkpoint that is --memory-only");
  ExpectCreateUsage({"--memory-only", "--diskspec", "root"}, "--memory-only");
  ExpectCreateUsage({"--memory-only", "--reuse-existing"}, "--reuse-existing");
  ExpectCreateUsage({"--compress-level", "3"}, "needs --compress zstd");
}

TEST_F(CheckpointCommandsTest, WrongDisksAndFilesAreRefused) {
  ExpectCreateUsage({"--diskspec", "root,driver=qcow2"}, "unknown part \"driver=qcow2\"");
  ExpectCreateUsage({"--diskspec", "root,snapshot=internal"}, "ferryctl snapshot save");
  ExpectCreateUsage({"--diskspec", "root", "--diskspec", "root"}, "\"root\" is named twice");
  ExpectCreateUsage({"--diskspec"}, "--diskspec");
  ExpectCreateUsage({"--memspec", "m"}, "not an absolute path");
  ExpectCreateUsage({"--key-file", "k"}, "not an absolute path");
  ExpectCreateUsage({"once", "more"}, "once");
  script_.calls = 0;
  for (const char* verb : {"create", "inspect", "revert", "delete"}) {
    EXPECT_EQ(Checkpoint({verb, "web"}), kUsage) << verb;
    EXPECT_THAT(said_, HasSubstr("name is required"));
  }
  for (const char* verb : {"list", "tree"}) EXPECT_EQ(Checkpoint({verb}), kUsage) << verb;
  EXPECT_EQ(Checkpoint({}), kUsage);
  EXPECT_EQ(script_.calls, 0);
}

TEST_F(CheckpointCommandsTest, RevertSaysWhatTheVmIsThen) {
  EXPECT_EQ(Checkpoint({"revert", "web", "before-upgrade"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("web went back to checkpoint before-upgrade of "));
  EXPECT_EQ(script_.revert.vm(), "web");
  EXPECT_EQ(script_.revert.name(), "before-upgrade");
  EXPECT_EQ(script_.revert.then(), v1::RevertToCheckpointRequest::THEN_UNSPECIFIED);
  EXPECT_EQ(Checkpoint({"revert", "web", "before-upgrade", "--running"}), kOk);
  EXPECT_EQ(script_.revert.then(), v1::RevertToCheckpointRequest::THEN_RUNNING);
  EXPECT_EQ(Checkpoint({"revert", "web", "before-upgrade", "--stopped"}), kOk);
  EXPECT_EQ(script_.revert.then(), v1::RevertToCheckpointRequest::THEN_STOPPED);
  EXPECT_THAT(printed_, HasSubstr("; it is stopped\n"));
  script_.calls = 0;
  EXPECT_EQ(Checkpoint({"revert", "web", "before-upgrade", "--running", "--stopped"}), kUsage);
  EXPECT_EQ(script_.calls, 0);
}

TEST_F(CheckpointCommandsTest, DeleteNamesWhatIsGone) {
  EXPECT_EQ(Checkpoint({"delete", "web", "base"}), kOk);
  EXPECT_EQ(printed_, "checkpoint base of VM web deleted\n");
  EXPECT_EQ(script_.remove.vm(), "web");
  EXPECT_EQ(script_.remove.name(), "base");
}

TEST_F(CheckpointCommandsTest, ListTreeAndInspectShowThem) {
  EXPECT_EQ(Checkpoint({"list", "web"}), kOk);
  EXPECT_EQ(script_.list.vm(), "web");
  EXPECT_THAT(printed_, HasSubstr("root,data"));
  EXPECT_EQ(Checkpoint({"tree", "web"}), kOk);
  EXPECT_EQ(printed_, "base\n`-- tuned   <- the VM goes on from here\n");
  for (const char* verb : {"list", "tree"}) {
    EXPECT_EQ(Checkpoint({verb, "web", "-o", "json"}), kOk);
    EXPECT_THAT(printed_, HasSubstr("\"parent\": \"base\"")) << verb;
  }
  EXPECT_EQ(Checkpoint({"inspect", "web", "tuned"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\"name\": \"tuned\""));
  EXPECT_THAT(printed_, Not(HasSubstr("\"name\": \"base\"")));
}

TEST_F(CheckpointCommandsTest, WhatIsNotRememberedNeedsAPlaceForItsMemory) {
  ExpectCreateUsage({"--no-metadata"}, "--memspec");
  EXPECT_EQ(Create({"--no-metadata", "--disk-only"}), kOk);
  EXPECT_TRUE(script_.create.no_metadata());
  EXPECT_THAT(printed_, HasSubstr("; nothing is remembered of it\n"));
  EXPECT_EQ(Create({"--no-metadata", "--memspec", "/m"}), kOk);
  EXPECT_EQ(Create({"--reuse-existing", "--diskspec", "root,file=/r"}), kOk);
  EXPECT_TRUE(script_.create.reuse_existing());
  EXPECT_FALSE(script_.create.no_metadata());
}

TEST_F(CheckpointCommandsTest, RestoreAsSaysWhatTheNewVmDoes) {
  EXPECT_EQ(Checkpoint({"restore-as", "web", "before", "web-2"}), kOk);
  EXPECT_EQ(printed_,
            "VM web-2 was made of checkpoint before of VM web; its start goes on from there\n");
  EXPECT_EQ(script_.restore.new_name(), "web-2");
  EXPECT_EQ(Checkpoint({"restore-as", "web", "before", "web-2", "--disk-only", "--diskspec",
                        "root,file=/r"}),
            kOk);
  EXPECT_TRUE(script_.restore.disk_only());
  ASSERT_EQ(script_.restore.disks_size(), 1);
  EXPECT_EQ(script_.restore.disks(0).file(), "/r");
  EXPECT_THAT(printed_, HasSubstr("its start boots from its disks\n"));
  script_.calls = 0;
  EXPECT_EQ(Checkpoint({"restore-as", "web", "before"}), kUsage);
  EXPECT_EQ(Checkpoint({"restore-as", "web", "before", "x", "--diskspec", "root,snapshot=no"}),
            kUsage);
  EXPECT_EQ(script_.calls, 0);
}

TEST_F(CheckpointCommandsTest, DefineNamesTheFiles) {
  EXPECT_EQ(
      Checkpoint({"define", "web", "before-upgrade", "--diskspec", "root,file=/r", "--memory-file",
                  "/m", "--key-file", "/k", "--parent", "p", "--current", "--description", "d"}),
      kOk);
  const v1::DefineCheckpointRequest& asked = script_.define;
  EXPECT_EQ(asked.disks(0).file(), "/r");
  EXPECT_EQ(asked.memory_file(), "/m");
  EXPECT_EQ(asked.key_file(), "/k");
  EXPECT_EQ(asked.parent(), "p");
  EXPECT_EQ(asked.description(), "d");
  EXPECT_TRUE(asked.current());
  EXPECT_EQ(printed_, "checkpoint before-upgrade of VM web defined: memory and 2 disks\n");
  script_.calls = 0;
  EXPECT_EQ(Checkpoint({"define", "web", "a"}), kUsage);
  EXPECT_EQ(Checkpoint({"define", "web", "a", "--diskspec", "root"}), kUsage);
  EXPECT_EQ(Checkpoint({"define", "web", "a", "--diskspec", "root,file=/r", "--key-file", "/k"}),
            kUsage);
  EXPECT_EQ(script_.calls, 0);
}

TEST_F(CheckpointCommandsTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(Checkpoint({"inspect", "web", "never-was"}), kRefused);
  EXPECT_EQ(printed_, "");
  EXPECT_THAT(said_, HasSubstr("VM web has no checkpoint never-was"));
  EXPECT_THAT(said_, HasSubstr("ferryctl checkpoint list web"));
  script_.status =
      rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "2 checkpoints go on from base",
                           "checkpoint_has_branches", "Delete one of them first");
  EXPECT_EQ(Checkpoint({"delete", "web", "base"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("2 checkpoints go on from base"));
  EXPECT_THAT(said_, HasSubstr("Delete one of them first"));
  for (std::vector<const char*> command :
       std::vector<std::vector<const char*>>{{"create", "web", "x"},
                                             {"revert", "web", "x"},
                                             {"list", "web"},
                                             {"tree", "web"},
                                             {"inspect", "web", "x"}}) {
    const std::string verb = command.front();
    EXPECT_EQ(Checkpoint(std::move(command)), kRefused) << verb;
    EXPECT_EQ(printed_, "") << verb;
  }
}

}  // namespace
}  // namespace ferry::ctl
