#include <gmock/gmock.h>

#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/snapshot_view.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Snapshot Whole() {
  v1::Snapshot snapshot;
  snapshot.set_tag("before");
  snapshot.set_vmstate("root");
  snapshot.set_vm_state_bytes(64 << 20);
  snapshot.add_devices("root");
  snapshot.add_devices("data");
  snapshot.set_loadable(true);
  return snapshot;
}

v1::Snapshot Partial() {
  v1::Snapshot snapshot = Whole();
  snapshot.set_tag("half");
  snapshot.mutable_devices()->RemoveLast();
  snapshot.add_missing("data");
  snapshot.set_loadable(false);
  snapshot.set_reason("not all of its disks have it");
  return snapshot;
}

class SnapshotScript final : public v1::SnapshotService::CallbackService, public Scripted {
 public:
  using Scripted::Scripted;

  grpc::ServerUnaryReactor* SaveSnapshot(grpc::CallbackServerContext* context,
                                         const v1::SaveSnapshotRequest* request,
                                         v1::Snapshot* response) override {
    return Serve(context, request, response, &save, Whole());
  }
  grpc::ServerUnaryReactor* LoadSnapshot(grpc::CallbackServerContext* context,
                                         const v1::LoadSnapshotRequest* request,
                                         v1::Snapshot* response) override {
    return Serve(context, request, response, &load, Whole());
  }
  grpc::ServerUnaryReactor* DeleteSnapshot(grpc::CallbackServerContext* context,
                                           const v1::DeleteSnapshotRequest* request,
                                           v1::DeleteSnapshotResponse* response) override {
    return Serve(context, request, response, &remove, v1::DeleteSnapshotResponse());
  }
  grpc::ServerUnaryReactor* ListSnapshots(grpc::CallbackServerContext* context,
                                          const v1::ListSnapshotsRequest* request,
                                          v1::ListSnapshotsResponse* response) override {
    v1::ListSnapshotsResponse all;
    *all.add_snapshots() = Whole();
    *all.add_snapshots() = Partial();
    return Serve(context, request, response, &list, all);
  }

  v1::SaveSnapshotRequest save;
  v1::LoadSnapshotRequest load;
  v1::DeleteSnapshotRequest remove;
  v1::ListSnapshotsRequest list;
};

class SnapshotCommandsTest : public ServedCommandsTest {
 protected:
  SnapshotCommandsTest() { Serve({&script_}); }

  // A wrong usage, which the daemon does not hear of.
  void ExpectUsage(std::vector<const char*> arguments, const std::string& word) {
    script_.calls = 0;
    EXPECT_EQ(Ferryctl(std::move(arguments)), kUsage) << word;
    EXPECT_THAT(said_, HasSubstr(word));
    EXPECT_EQ(script_.calls, 0);
  }

  SnapshotScript script_{io_.get_executor()};
};

TEST_F(SnapshotCommandsTest, SaveNamesTheDisks) {
  EXPECT_EQ(Ferryctl({"snapshot", "save", "web", "before", "--devices", "root,data", "--vmstate",
                      "root"}),
            kOk);
  EXPECT_EQ(printed_, "snapshot before taken; memory (64.0 MiB) in root\n");
  EXPECT_EQ(script_.save.vm(), "web");
  EXPECT_EQ(script_.save.tag(), "before");
  EXPECT_THAT(script_.save.devices(), ElementsAre("root", "data"));
  EXPECT_EQ(script_.save.vmstate(), "root");
}

TEST_F(SnapshotCommandsTest, LiveIsRefusedWithTheReason) {
  ExpectUsage({"snapshot", "save", "web", "t", "--devices", "root", "--vmstate", "root", "--live"},
              "while the guest stands still");
}

TEST_F(SnapshotCommandsTest, NothingIsGuessed) {
  ExpectUsage({"snapshot", "save", "web", "t", "--vmstate", "root"}, "--devices is required");
  ExpectUsage({"snapshot", "save", "web", "t", "--devices", "root"}, "--vmstate is required");
  ExpectUsage({"snapshot", "save", "web"}, "tag is required");
  ExpectUsage({"snapshot", "load", "web"}, "tag is required");
  ExpectUsage({"snapshot"}, "subcommand");
}

TEST_F(SnapshotCommandsTest, LoadAndDelete) {
  EXPECT_EQ(Ferryctl({"snapshot", "load", "web", "before"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("web went back to snapshot before of "));
  EXPECT_EQ(script_.load.tag(), "before");
  EXPECT_EQ(Ferryctl({"snapshot", "delete", "web", "before"}), kOk);
  EXPECT_EQ(printed_, "snapshot before deleted\n");
  EXPECT_EQ(script_.remove.tag(), "before");
}

TEST_F(SnapshotCommandsTest, ListMarksWhatSomeDisksLack) {
  EXPECT_EQ(Ferryctl({"snapshot", "list", "web"}), kOk);
  EXPECT_EQ(script_.list.vm(), "web");
  EXPECT_THAT(printed_, HasSubstr("half (partial)"));
  EXPECT_THAT(printed_, HasSubstr("not all of its disks have it: data"));
  EXPECT_THAT(printed_, HasSubstr("root,data"));
  EXPECT_EQ(Ferryctl({"--output", "json", "snapshot", "list", "web"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\"missing\""));
}

TEST_F(SnapshotCommandsTest, ErrorsSayWhatToDo) {
  script_.status = rpc::ErrorWithReason(absl::StatusCode::kNotFound, "VM web has no snapshot t",
                                        "no_such_snapshot", "ferryctl snapshot list web");
  EXPECT_EQ(Ferryctl({"snapshot", "delete", "web", "t"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("VM web has no snapshot t"));
  EXPECT_THAT(said_, HasSubstr("ferryctl snapshot list web"));
  script_.status = rpc::ErrorWithReason(absl::StatusCode::kDataLoss, "snapshot load failed",
                                        "snapshot_load_failed", "");
  EXPECT_EQ(Ferryctl({"snapshot", "load", "web", "t"}), kInternal);
}

TEST_F(SnapshotCommandsTest, HelpSaysThatTheGuestStandsStill) {
  for (const char* verb : {"save", "load", "delete"}) {
    EXPECT_EQ(Ferryctl({"snapshot", verb, "--help"}), kOk);
    EXPECT_THAT(printed_, HasSubstr("The guest stands still")) << verb;
    EXPECT_THAT(printed_, HasSubstr("cannot be cancelled")) << verb;
  }
}

}  // namespace
}  // namespace ferry::ctl
