// Disks that the destination does not see, on their way to it. Both hosts are in one process and
// see the same files, so what is copied is what is asked for.
#include "vmmanager/backend/disk_copies.h"

#include <filesystem>
#include <fstream>

#include "migration/controller/source_session.h"
#include "tests/unit/migration/controller/driven_fixture.h"
#include "vmmanager/containers/empty_qcow2.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

class DiskCopiesTest : public DrivenTest {
 protected:
  std::shared_ptr<vm::UtilityVm> BootWithDisks(const std::string& format = "raw") {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    for (const char* name : {"root", "data"}) {
      v1::DiskSpec* disk = request.mutable_spec()->add_disks();
      disk->set_name(name);
      disk->set_file(FileOf(name));
      disk->set_format(format);
      std::ofstream(FileOf(name)) << (format == "raw" ? std::string(8192, 'x')
                                                      : vm::EmptyQcow2(8192));
    }
    auto vm = Await(a_.host.inventory->Create(request));
    EXPECT_TRUE(vm.ok()) << vm.status();
    EXPECT_TRUE(Await((*vm)->Start()).ok());
    return *vm;
  }
  std::string FileOf(const std::string& name) const { return folder_.path() + "/" + name + ".raw"; }

  static v1::MigrateRequest CopyAll() {
    v1::MigrateRequest request = MigrateRequest();
    request.mutable_options()->set_copy_storage(v1::COPY_STORAGE_ALL);
    return request;
  }

  // A migration that is at the disks until MirrorDisks is released.
  std::string BeginCopying() {
    a_.host.backend.script().Block("MirrorDisks");
    const std::string id = Migrate(CopyAll());
    Await(a_.host.backend.script().WaitBlocked("MirrorDisks"));
    return id;
  }

  // What is in the destination's own folder of disks.
  std::vector<std::string> Arrived() const {
    std::vector<std::string> files;
    std::error_code none;
    const std::string folder = folder_.path() + "/b/disks";
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, none)) {
      if (entry.is_regular_file()) files.push_back(entry.path().filename());
    }
    return files;
  }

  // Nothing was changed, and nothing is on its way.
  void ExpectNothingLeft(const std::shared_ptr<vm::UtilityVm>& vm) {
    ExpectRolledBack(vm);
    EXPECT_EQ(a_.host.System(*vm)->mirrors(), 0u);
    EXPECT_THAT(Arrived(), IsEmpty());
    for (const char* name : {"root", "data"}) EXPECT_TRUE(std::filesystem::exists(FileOf(name)));
  }

  // Up to a destination that is prepared.
  v1::ImportSandboxResponse PrepareBoth(const std::string& id) {
    v1::PrepareAndExportSandboxRequest request = ExportRequest(id);
    request.mutable_options()->set_copy_storage(v1::COPY_STORAGE_ALL);
    auto plan = Await(a_.sessions->PrepareAndExport(request));
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(Import(id, plan.value_or("")).ok());
    EXPECT_TRUE(Prepare(b_, id).ok());
    v1::ImportSandboxResponse imported;
    for (const auto& disk : b_.sessions->IncomingDisks(id)) *imported.add_disks() = disk;
    return imported;
  }
  absl::StatusOr<v1::ReceiveDisksResponse> Receive(const std::string& id) {
    v1::ReceiveDisksRequest request;
    request.set_session_id(id);
    return Await(b_.sessions->ReceiveDisks(request));
  }
  absl::Status Send(const std::string& id, const v1::ReceiveDisksResponse& awaited) {
    v1::SendDisksRequest request;
    request.set_session_id(id);
    request.set_session_address(awaited.session_address());
    request.set_session_token(awaited.session_token());
    *request.mutable_disks() = awaited.disks();
    return Await(a_.sessions->SendDisks(request));
  }
};

TEST_F(DiskCopiesTest, TheyComeAlong) {
  a_.host.backend.script().disk_write_limit = 1 << 20;
  auto vm = BootWithDisks();
  const std::string id = Migrate(CopyAll());
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.vm_location(), "host-b:1") << session.error();
  ExpectMoved(vm, 2);
  EXPECT_GT(session.progress().disk_total_bytes(), 0u);
  EXPECT_EQ(session.progress().disk_done_bytes(), session.progress().disk_total_bytes());
  EXPECT_EQ(session.progress().disk_write_limit(), 1u << 20);
  auto there = b_.host.inventory->Find("web");
  ASSERT_TRUE(there.ok());
  ASSERT_THAT((*there)->spec().disks(), SizeIs(2));
  const std::string own = folder_.path() + "/b/disks/" + vm->id() + "/";
  for (int i = 0; i < 2; ++i) {
    const std::string& file = (*there)->spec().disks(i).file();
    EXPECT_THAT(file, StartsWith(own));
    EXPECT_EQ(b_.host.overlays.images.at(file).bytes, 8192u);
    const auto& scsi = (*there)->document().virtual_machine.devices.scsi.at("0");
    EXPECT_EQ(scsi.attachments.at(std::to_string(i)).path, file);
  }
  // They are no drafts any more, and the source's stay.
  EXPECT_THAT(Arrived(), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(FileOf("root")));
  EXPECT_FALSE(b_.host.backend.Find(vm->id())->disks_open());
}

TEST_F(DiskCopiesTest, WhatTheDestinationSeesIsNotCopied) {
  auto vm = BootWithDisks();
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_EQ((*b_.host.inventory->Find("web"))->spec().disks(0).file(), FileOf("root"));
}

TEST_F(DiskCopiesTest, ACopyThatFailsCostsNothing) {
  auto vm = BootWithDisks();
  for (const char* verb : {"MirrorDisks", "SealMirrors"}) {
    a_.host.backend.script().FailNext(verb, absl::ResourceExhaustedError("no room there"));
    const v1::Session session = Wait(a_, Migrate(CopyAll()));
    EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED) << verb;
    EXPECT_THAT(session.error(), HasSubstr("no room there")) << verb;
    ExpectNothingLeft(vm);
  }
  for (const char* verb : {"OpenDisks", "CloseDisks"}) {
    b_.host.backend.script().FailNext(verb, absl::InternalError("not now"));
    const v1::Session session = Wait(a_, Migrate(CopyAll()));
    EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED) << verb;
    ExpectNothingLeft(vm);
  }
  EXPECT_EQ(Wait(a_, Migrate(CopyAll())).vm_location(), "host-b:1");
}

TEST_F(DiskCopiesTest, WhoFailedIsTold) {
  BootWithDisks();
  const auto fail = [this](const char* verb, const char* payload) {
    absl::Status status = absl::AbortedError("it failed");
    if (payload != nullptr) status.SetPayload(payload, absl::Cord());
    a_.host.backend.script().FailNext(verb, status);
    return Wait(a_, Migrate(CopyAll()));
  };
  for (const char* verb : {"MirrorDisks", "SealMirrors"}) {
    EXPECT_EQ(fail(verb, vm::kOtherDiskFailed).failed_at(), v1::MIGRATION_ORIGIN_DESTINATION);
    EXPECT_EQ(fail(verb, nullptr).failed_at(), v1::MIGRATION_ORIGIN_SOURCE) << verb;
  }
  const v1::Session busy = fail("MirrorDisks", vm::kNeverTheSame);
  EXPECT_EQ(busy.reason(), "not_converging");
  EXPECT_THAT(busy.next_step(), HasSubstr("pause"));
}

// Nothing may say that the disks of a VM that runs are drafts.
TEST_F(DiskCopiesTest, AVmHasNotArrivedBeforeItsDisksAreKept) {
  auto vm = BootWithDisks();
  b_.host.store.before_append = [this](vm::JournalRecord record) -> Task<absl::Status> {
    if (record.kind == "RUNNING") {
      EXPECT_THAT(Arrived(), IsEmpty());
    }
    co_return absl::OkStatus();
  };
  EXPECT_EQ(Wait(a_, Migrate(CopyAll())).vm_location(), "host-b:1");
  b_.host.store.before_append = nullptr;
}

TEST_F(DiskCopiesTest, ACopyCanBeCancelled) {
  auto vm = BootWithDisks();
  const std::string id = BeginCopying();
  EXPECT_TRUE(Await((*a_.sessions->Find(id))->Cancel("cancelled on request")).ok());
  a_.host.backend.script().Release("MirrorDisks");
  EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_CANCELLED);
  ExpectNothingLeft(vm);
}

TEST_F(DiskCopiesTest, ACopyThatTakesTooLongSaysSo) {
  auto vm = BootWithDisks();
  const std::string id = BeginCopying();
  auto session = a_.sessions->Find(id);
  std::dynamic_pointer_cast<SourceSession>(*session)->LimitTime(milliseconds(1),
                                                                v1::TIMEOUT_ACTION_CANCEL);
  Until([&] { return (*session)->Describe().reason() == "timed_out"; });
  a_.host.backend.script().Release("MirrorDisks");
  EXPECT_THAT(Wait(a_, id).error(), HasSubstr("its disks were not copied yet"));
  ExpectNothingLeft(vm);
}

TEST_F(DiskCopiesTest, NothingMovesToWhereThereIsNoRoom) {
  auto vm = BootWithDisks();
  b_.host.overlays.room.bytes = 100;
  const v1::Session session = Wait(a_, Migrate(CopyAll()));
  EXPECT_EQ(session.reason(), "no_room_for_disks");
  ExpectNothingLeft(vm);
}

// A file may be smaller than a copy of what is in it.
TEST_F(DiskCopiesTest, WhatACopyNeedsIsMeasuredBeforeItBegins) {
  auto vm = BootWithDisks("qcow2");
  for (const char* name : {"root", "data"}) a_.host.overlays.measured[FileOf(name)] = 60'000;
  b_.host.overlays.room.bytes = 100'000;
  const v1::Session session = Wait(a_, Migrate(CopyAll()));
  EXPECT_EQ(session.reason(), "no_room_for_disks") << session.error();
  EXPECT_EQ(session.progress().disk_total_bytes(), 0u);
  ExpectNothingLeft(vm);
}

TEST_F(DiskCopiesTest, TheDestinationTakesNoVmWithoutItsDisks) {
  auto vm = BootWithDisks();
  const v1::ImportSandboxResponse imported = PrepareBoth("s1");
  ASSERT_THAT(imported.disks(), SizeIs(2));
  EXPECT_EQ(Transfer(b_, "s1").code(), absl::StatusCode::kFailedPrecondition);
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  // Asked again, it says the same.
  auto again = Receive("s1");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->session_token(), awaited->session_token());
  EXPECT_EQ(Transfer(b_, "s1").code(), absl::StatusCode::kFailedPrecondition);
  v1::ReceiveDisksResponse others = *awaited;
  others.add_disks("root");
  EXPECT_EQ(Send("s1", others).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status sent = Send("s1", *awaited);
  EXPECT_TRUE(sent.ok()) << sent;
  EXPECT_EQ(Send("s1", *awaited).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Receive("s1").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Transfer(b_, "s1").ok());
}

TEST_F(DiskCopiesTest, ADestinationWhoseSourceGoesAwayRemovesWhatCame) {
  b_.deps->limits.cut = milliseconds(10);
  auto vm = BootWithDisks();
  PrepareBoth("s1");
  auto awaited = Receive("s1");
  ASSERT_TRUE(awaited.ok()) << awaited.status();
  FakeWire& wire = UseWire();
  awaited->set_session_address(wire.LeadTo(awaited->session_address()));
  ASSERT_TRUE(Send("s1", *awaited).ok());
  EXPECT_THAT(Arrived(), SizeIs(1));  // that they are drafts; the disks are names only
  wire.Cut();
  EXPECT_EQ(Wait(b_, "s1").reason(), "connection_lost");
  EXPECT_THAT(Arrived(), IsEmpty());
  ExpectEmpty(b_);
}

TEST_F(DiskCopiesTest, ARestartedDestinationRemovesWhatCame) {
  auto vm = BootWithDisks();
  PrepareBoth("s1");
  EXPECT_THAT(Arrived(), SizeIs(1));  // that they are drafts; the disks are names only
  Restart(b_);
  Until([&] { return Arrived().empty(); });
  EXPECT_TRUE(b_.host.inventory->List().empty());
}

}  // namespace
}  // namespace ferry::migration
