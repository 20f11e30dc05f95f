#include <gmock/gmock.h>

#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;

v1::Disk Data() {
  v1::Disk disk;
  disk.set_vm("web");
  disk.set_name("data");
  disk.set_file("/images/data.qcow2");
  disk.set_format("qcow2");
  disk.set_bytes(uint64_t{10} << 30);
  disk.set_used_bytes(196 << 10);
  disk.set_lun(3);
  return disk;
}

class DiskScript final : public v1::DiskService::CallbackService, public Scripted {
 public:
  using Scripted::Scripted;

  grpc::ServerUnaryReactor* CreateDisk(grpc::CallbackServerContext* context,
                                       const v1::CreateDiskRequest* request,
                                       v1::Disk* response) override {
    return Serve(context, request, response, &create, Data());
  }
  grpc::ServerUnaryReactor* ListDisks(grpc::CallbackServerContext* context,
                                      const v1::ListDisksRequest* request,
                                      v1::ListDisksResponse* response) override {
    v1::ListDisksResponse all;
    *all.add_disks() = Data();
    v1::Disk* scratch = all.add_disks();
    scratch->set_vm("web");
    scratch->set_name("0123");
    scratch->set_container_id("0123");
    v1::Disk* gone = all.add_disks();
    gone->set_trouble("cannot look at /gone");
    return Serve(context, request, response, &list, all);
  }
  grpc::ServerUnaryReactor* AttachDisk(grpc::CallbackServerContext* context,
                                       const v1::AttachDiskRequest* request,
                                       v1::Disk* response) override {
    return Serve(context, request, response, &attach, Data());
  }
  grpc::ServerUnaryReactor* DetachDisk(grpc::CallbackServerContext* context,
                                       const v1::DetachDiskRequest* request,
                                       v1::DetachDiskResponse* response) override {
    return Serve(context, request, response, &detach, v1::DetachDiskResponse());
  }
  grpc::ServerUnaryReactor* ResizeDisk(grpc::CallbackServerContext* context,
                                       const v1::ResizeDiskRequest* request,
                                       v1::Disk* response) override {
    return Serve(context, request, response, &resize, Data());
  }

  v1::CreateDiskRequest create;
  v1::ListDisksRequest list;
  v1::AttachDiskRequest attach;
  v1::DetachDiskRequest detach;
  v1::ResizeDiskRequest resize;
};

class DiskCommandsTest : public ServedCommandsTest {
 protected:
  DiskCommandsTest() { Serve({&script_}); }
  void ExpectUsage(std::vector<const char*> arguments, const std::string& word) {
    script_.calls = 0;
    EXPECT_EQ(Ferryctl(std::move(arguments)), kUsage) << word;
    EXPECT_THAT(said_, HasSubstr(word));
    EXPECT_EQ(script_.calls, 0);
  }

  DiskScript script_{io_.get_executor()};
};

TEST_F(DiskCommandsTest, CreateMakesAFile) {
  EXPECT_EQ(Ferryctl({"disk", "create", "/images/data.qcow2", "--size", "10G"}), kOk);
  EXPECT_EQ(printed_, "/images/data.qcow2 has 10.0 GiB\n");
  EXPECT_EQ(script_.create.file(), "/images/data.qcow2");
  EXPECT_EQ(script_.create.bytes(), uint64_t{10} << 30);
  ExpectUsage({"disk", "create", "/d"}, "--size is required");
  ExpectUsage({"disk", "create", "/d", "--size", "10X"}, "--size");
}

TEST_F(DiskCommandsTest, AttachAndDetach) {
  EXPECT_EQ(Ferryctl({"disk", "attach", "web", "name=data,file=/d,format=raw,ro"}), kOk);
  EXPECT_EQ(printed_, "web has disk data at LUN 3\n");
  EXPECT_EQ(script_.attach.vm(), "web");
  EXPECT_EQ(script_.attach.disk().format(), "raw");
  EXPECT_TRUE(script_.attach.disk().read_only());
  EXPECT_EQ(Ferryctl({"disk", "detach", "web", "data"}), kOk);
  EXPECT_EQ(printed_, "disk data detached\n");
  EXPECT_EQ(script_.detach.disk(), "data");
  ExpectUsage({"disk", "attach", "web", "data"}, "write name=N,file=F");
  ExpectUsage({"disk", "detach", "web"}, "disk is required");
}

TEST_F(DiskCommandsTest, Resize) {
  EXPECT_EQ(Ferryctl({"disk", "resize", "web", "data", "10G"}), kOk);
  EXPECT_EQ(printed_, "disk data has 10.0 GiB\n");
  EXPECT_EQ(script_.resize.bytes(), uint64_t{10} << 30);
  ExpectUsage({"disk", "resize", "web", "data", "+10G"}, "size");
}

TEST_F(DiskCommandsTest, ListSaysWhoseTheyAre) {
  EXPECT_EQ(Ferryctl({"disk", "list"}), kOk);
  EXPECT_EQ(script_.list.vm(), "");
  EXPECT_THAT(printed_, HasSubstr("10.0 GiB"));
  EXPECT_THAT(printed_, HasSubstr("a container's"));
  EXPECT_THAT(printed_, HasSubstr("cannot look at /gone"));
  EXPECT_EQ(Ferryctl({"--output", "json", "disk", "list", "web"}), kOk);
  EXPECT_EQ(script_.list.vm(), "web");
  EXPECT_THAT(printed_, HasSubstr("\"container_id\""));
}

}  // namespace
}  // namespace ferry::ctl
