#include "vmmanager/saving/interrupted_jobs.h"

#include <optional>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/saving/job_words.h"
#include "vmmanager/saving/snapshots.h"

namespace ferry::vm {
namespace {

class InterruptedJobsTest : public CheckpointsTest {
 protected:
  v1::Job JobOf(v1::JobKind kind, const std::string& what) const {
    v1::Job job;
    job.set_kind(kind);
    job.set_what(what);
    job.set_vm_id(vm_->id());
    return job;
  }
  std::optional<std::string> Judge(v1::JobKind kind, const std::string& what,
                                   uint64_t started = 0) {
    v1::Job job = JobOf(kind, what);
    job.set_started_unix_ms(started);
    return JudgeInterrupted(*host_.inventory)(job);
  }

  std::shared_ptr<UtilityVm> vm_ = BootWithDisks();
};

TEST_F(InterruptedJobsTest, SavesAndRestoresAreToldByTheirVm) {
  EXPECT_EQ(Judge(v1::JOB_KIND_SAVE, "to its own file"), std::nullopt);
  EXPECT_NE(Judge(v1::JOB_KIND_RESTORE, "from a file"), std::nullopt);
  ASSERT_TRUE(Save(vm_).ok());
  EXPECT_EQ(Judge(v1::JOB_KIND_SAVE, "to its own file"), "saved in " + FileOf(*vm_));
  EXPECT_EQ(Judge(v1::JOB_KIND_SAVE, "to its own file", UINT64_MAX), std::nullopt);
  EXPECT_EQ(Judge(v1::JOB_KIND_RESTORE, "from a file"), std::nullopt);
}

TEST_F(InterruptedJobsTest, CheckpointsAreToldByWhatThereIsOfThem) {
  const v1::JobKind kind = v1::JOB_KIND_CHECKPOINT;
  ASSERT_TRUE(Take("x").ok());
  EXPECT_EQ(Judge(kind, "take x"), "took x");
  EXPECT_EQ(Judge(kind, "take x", UINT64_MAX), std::nullopt);  // an older one of that name
  EXPECT_EQ(Judge(kind, "take y"), std::nullopt);
  EXPECT_EQ(Judge(kind, "define x"), "defined x");
  EXPECT_EQ(Judge(kind, "define y"), std::nullopt);
  EXPECT_EQ(Judge(kind, "delete x"), std::nullopt);
  EXPECT_EQ(Judge(kind, "delete y"), "deleted y");
  EXPECT_EQ(Judge(kind, "take x, then halt"), std::nullopt);
  EXPECT_EQ(Judge(kind, "go back to x"), std::nullopt);
  // One that is half made.
  auto taking = BeginLive("half");
  EXPECT_EQ(Judge(kind, "take half"), std::nullopt);
  EXPECT_EQ(Judge(kind, "delete half"), std::nullopt);
  host_.backend.script().Release("SaveBehindRunning");
  EXPECT_TRUE(Finish(taking).ok());
  EXPECT_EQ(Judge(kind, "take half"), "took half");
}

TEST_F(InterruptedJobsTest, SnapshotsAreToldByWhatThereIsOfThem) {
  const v1::JobKind kind = v1::JOB_KIND_SNAPSHOT;
  Snapshots snapshots(*host_.inventory, nullptr);
  v1::SaveSnapshotRequest request;
  request.set_vm("web");
  request.set_tag("t");
  request.add_devices("root");
  request.set_vmstate("root");
  request.add_devices("data");
  const auto saved = Await(snapshots.Save(request));
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(Judge(kind, "take t"), "took t");
  EXPECT_EQ(Judge(kind, "take t", UINT64_MAX), std::nullopt);
  EXPECT_EQ(Judge(kind, "take u"), std::nullopt);
  EXPECT_EQ(Judge(kind, "load t"), std::nullopt);
  // Of one that no record was of nobody knows.
  v1::Job job = JobOf(kind, "delete u");
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), std::nullopt);
  job.mutable_progress()->set_phase(kOfKnownSnapshot);
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), "deleted u");
  job.set_what("delete t");
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), std::nullopt);
}

TEST_F(InterruptedJobsTest, ClonesAreToldByTheirId) {
  v1::Job job = JobOf(v1::JOB_KIND_CHECKPOINT, "make web of x");
  job.set_made_vm_id("nobody's");
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), std::nullopt);
  job.set_made_vm_id(vm_->id());
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), "made VM web");
}

TEST_F(InterruptedJobsTest, DisksAreToldByWhereTheyAre) {
  EXPECT_EQ(Judge(v1::JOB_KIND_DISK, "move root to " + File("root.qcow2")),
            "moved root; its former file may still be there");
  EXPECT_EQ(Judge(v1::JOB_KIND_DISK, "move root to /elsewhere"), std::nullopt);
  EXPECT_EQ(Judge(v1::JOB_KIND_DISK, "move other to " + File("root.qcow2")), std::nullopt);
}

TEST_F(InterruptedJobsTest, OfOthersNothingIsKnown) {
  EXPECT_EQ(Judge(v1::JOB_KIND_IMPORT, "image x"), std::nullopt);
  v1::Job job;
  job.set_kind(v1::JOB_KIND_SAVE);
  job.set_vm_id("nobody's");
  EXPECT_EQ(JudgeInterrupted(*host_.inventory)(job), std::nullopt);
}

}  // namespace
}  // namespace ferry::vm
