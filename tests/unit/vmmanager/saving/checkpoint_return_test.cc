// All of a checkpoint's memory is read before the VM that goes back to it is ended.
#include <fstream>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/saves/saved_file_format.h"

namespace ferry::vm {
namespace {

using ::testing::SizeIs;

class CheckpointReturnTest : public CheckpointsTest {
 protected:
  void TearDown() override {
    Await(jobs_.Close());
    CheckpointsTest::TearDown();
  }

  // A checkpoint of a VM that runs, with so much memory that it is not read in a moment.
  std::shared_ptr<UtilityVm> TakeLarge(const std::string& name) {
    BootWithDisks();
    const auto taken = Take(name);
    EXPECT_TRUE(taken.ok()) << taken.status();
    const std::string file = taken->memory_file();
    const SavedFileInfo info = Enlarge(file);
    state::v1::CheckpointRecord record = Found()->checkpoints().at(name);
    record.set_memory_sha256(info.sha256);
    const CheckpointRow row{Found()->id(), name, record.SerializeAsString()};
    EXPECT_TRUE(Await(host_.store.PutCheckpoints({row}, std::nullopt)).ok());
    Restart();
    EXPECT_TRUE(host_.System(*Found())->Step(7));
    CheckpointsOptions options;
    options.folder = folder_.path() + "/state/checkpoints";
    options.state_folder = folder_.path() + "/state";
    options.jobs = &jobs_;
    with_jobs_ = std::make_unique<Checkpoints>(*host_.inventory, nullptr, *saves_, digests_,
                                               std::move(options));
    return Found();
  }

  // Of nothing but zeros, which takes no room.
  static SavedFileInfo Enlarge(const std::string& file) {
    const auto reader = SavedFileReader::Open(file, std::nullopt);
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::filesystem::rename(file, file + ".small");
    SavedFileOptions options;
    options.compression = SaveCompression::kZstd;
    const auto writer = SavedFileWriter::Create(file, std::move(options));
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->WriteHead((*reader)->head()).ok());
    const std::string zeros(1 << 20, '\0');
    for (int mib = 0; mib < 4096; ++mib) EXPECT_TRUE((*writer)->WriteMemory(zeros).ok());
    const auto info = (*writer)->Commit((*reader)->tail());
    EXPECT_TRUE(info.ok()) << info.status();
    return *info;
  }

  // Up to where its memory is being read.
  auto BeginRevert(const std::string& name) {
    v1::RevertToCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    auto back = Begin(with_jobs_->Revert(request));
    Until([&] { return !jobs_.ListJobs().empty() && Job().progress().done() > 0; });
    EXPECT_EQ(Job().progress().phase(), "reading memory");
    return back;
  }
  v1::Job Job() const { return jobs_.ListJobs().front(); }

  JobRegistry jobs_{io_.get_executor(), host_.store, host_.events};
  std::unique_ptr<Checkpoints> with_jobs_;
};

TEST_F(CheckpointReturnTest, ItHasTheMachineOfThenUntilItBoots) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  v1::SetVmRequest set;
  set.set_memory_mb(512);
  ASSERT_TRUE(Await(vm->Set(set)).ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_EQ(vm->memory_mb(), 512u);
  ASSERT_TRUE(Revert("a", v1::RevertToCheckpointRequest::THEN_STOPPED).ok());
  EXPECT_EQ(vm->memory_mb(), 256u);
  EXPECT_EQ(vm->Describe(false).until_boot().memory_mb(), 256u);
  EXPECT_EQ(vm->spec().memory_mb(), 512u);
}

TEST_F(CheckpointReturnTest, WhatWasSetMeanwhileStaysIfThatCannotBeWrittenDown) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  bool was_there = false;
  Pending<absl::Status> setting;
  host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
    if (std::exchange(was_there, true)) co_return absl::OkStatus();
    v1::SetVmRequest set;
    set.set_memory_mb(512);
    setting = Begin(vm->Set(set));
    co_await Delay(milliseconds(10));
    co_return absl::ResourceExhaustedError("no room");
  };
  EXPECT_FALSE(Revert("a").ok());
  EXPECT_TRUE(Finish(setting).ok());
  EXPECT_EQ(vm->spec().memory_mb(), 512u);
  host_.store.before_put_checkpoints = nullptr;
  vm.reset();
  Restart();
  EXPECT_EQ(Found()->spec().memory_mb(), 512u);
}

TEST_F(CheckpointReturnTest, DamagedMemoryIsFoundBeforeTheVmIsEnded) {
  auto vm = BootWithDisks();
  const auto taken = Take("a");
  ASSERT_TRUE(taken.ok());
  EXPECT_TRUE(host_.System(*vm)->Step(7));
  {
    std::fstream file(taken->memory_file(), std::ios::in | std::ios::out | std::ios::binary);
    // The index says where the memory is, after where the head is.
    uint64_t memory = 0;
    file.seekg(16 - static_cast<int>(kIndexBytes), std::ios::end);
    file.read(reinterpret_cast<char*>(&memory), sizeof memory);
    file.seekp(static_cast<std::streamoff>(memory + kFrameHeaderBytes));
    file.put('?');
  }
  const absl::Status refused = Revert("a").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss) << refused;
  EXPECT_EQ(rpc::ReasonOf(refused), "restore_refused");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("nothing was changed"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm)->counter(), 7u);
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
}

TEST_F(CheckpointReturnTest, WhileItIsReadItCanBeCancelled) {
  const auto vm = TakeLarge("a");
  const auto before = host_.overlays.files;
  auto back = BeginRevert("a");
  ASSERT_TRUE(Job().cancellable());
  ASSERT_TRUE(Await(jobs_.CancelJob(Job().id())).ok());
  EXPECT_EQ(Finish(back).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Job().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_LT(Job().progress().done(), Job().progress().total());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm)->counter(), 7u);
  EXPECT_EQ(host_.overlays.files, before);
}

TEST_F(CheckpointReturnTest, ADaemonThatStopsDoesNotWaitForIt) {
  const auto vm = TakeLarge("a");
  auto back = BeginRevert("a");
  Await(host_.inventory->Detach());
  EXPECT_FALSE(Finish(back).ok());
  EXPECT_LT(Job().progress().done(), Job().progress().total());
  EXPECT_EQ(host_.System(*vm)->counter(), 7u);
}

}  // namespace
}  // namespace ferry::vm
