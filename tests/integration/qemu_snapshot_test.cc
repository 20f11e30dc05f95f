// Snapshots inside disks on real QEMU: what it says, in which order, and what we make of it.
#include "vmmanager/qemu/qemu_snapshot.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/integration/qemu_img.h"
#include "tests/integration/qemu_machine_fixture.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/snapshot_job.h"

namespace ferry::vm {
namespace {

using Kind = SnapshotJob::Kind;
using Course = std::vector<std::string>;

// Two qcow2 disks and a raw one.
class QemuSnapshotTest : public QemuMachineFixture {
 public:
  using QemuFixture::executor;
  using QemuFixture::folder_;
  using QemuFixture::MigrationPath;
  using QemuMachineFixture::LaunchMachine;

  void SetUp() override {
    QemuFixture::SetUp();
    for (const char* lun : {"0", "1"}) MakeDisk(PathOf(lun), "qcow2");
    MakeDisk(PathOf("2"), "raw");
  }

  std::string PathOf(const std::string& lun) const { return folder_ + "/disk" + lun; }

  schema::ComputeSystem DisksDocument(bool raw_is_writable) const {
    schema::ComputeSystem document = Document();
    document.virtual_machine.compute_topology.memory.size_in_mb = 64;
    auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
    for (const char* lun : {"0", "1", "2"}) disks[lun].path = PathOf(lun);
    disks["2"].format = "raw";
    disks["2"].read_only = !raw_is_writable;
    return document;
  }

  // A machine whose jobs can be run as QEMU has them, without our own checks before.
  Task<absl::StatusOr<std::shared_ptr<QemuMachine>>> Launch(schema::ComputeSystem document) {
    std::set<std::string> nothing;
    co_return co_await LaunchMachine(std::move(document), std::move(nothing));
  }

  static SnapshotJob Job(Kind kind, const std::string& tag) {
    SnapshotJob job;
    job.kind = kind;
    job.tag = tag;
    job.nodes = {"disk-0-0-fmt", "disk-0-1-fmt"};
    job.vm_state = "disk-0-0-fmt";
    return job;
  }

  static Task<absl::Status> RunOk(std::shared_ptr<QemuMachine> machine, SnapshotJob job) {
    co_return (co_await RunSnapshotJob(machine, std::move(job))).status;
  }

  // How many states of that tag each disk has: "1,1".
  static Task<std::string> Count(std::shared_ptr<QemuMachine> machine, std::string tag) {
    const auto present = co_await ListQemuSnapshots(machine);
    if (!present.ok()) co_return present.status().ToString();
    std::string counts;
    for (const DiskSnapshots& disk : *present) {
      const auto& all = disk.snapshots;
      const auto its = std::count_if(all.begin(), all.end(),
                                     [&tag](const DiskSnapshot& each) { return each.tag == tag; });
      counts += (counts.empty() ? "" : ",") + std::to_string(its);
    }
    co_return counts;
  }

  // Sets a migration capability without Ferry's knowledge.
  static Task<absl::Status> Leave(QemuMachine* machine, const char* capability) {
    boost::json::object one = {{"capability", capability}, {"state", true}};
    boost::json::object list = {{"capabilities", boost::json::array{std::move(one)}}};
    co_return (co_await machine->Command("migrate-set-capabilities", std::move(list))).status();
  }

  static Task<size_t> JobsLeft(QemuMachine* machine) {
    const auto jobs = co_await machine->Command("query-jobs");
    co_return jobs.ok() && jobs->is_array() ? jobs->get_array().size() : 99;
  }
};

const Course kDone = {"created", "running", "STOP",      "RESUME",
                      "waiting", "pending", "concluded", "null"};
const Course kDonePaused = {"created", "running", "waiting", "pending", "concluded", "null"};
const Course kFailed = {"created", "running", "aborting", "concluded", "null"};
const Course kFailedResumed = {"created",  "running",   "STOP", "RESUME",
                               "aborting", "concluded", "null"};
const Course kFailedStopped = {"created", "running", "STOP", "aborting", "concluded", "null"};

#define EXPECT_END(end, wanted_course, wanted_code, wanted_text)                   \
  do {                                                                             \
    EXPECT_EQ((end).course, wanted_course) << (end).status;                        \
    EXPECT_EQ((end).status.code(), absl::StatusCode::wanted_code) << (end).status; \
    EXPECT_EQ(std::string((end).status.message()), wanted_text);                   \
  } while (false)

// Every job of QEMU's own list of cases that ends well.
TEST_F(QemuSnapshotTest, WhatEndsWell) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(true));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    // Two disks, the raw one left out.
    for (const Kind kind : {Kind::kSave, Kind::kLoad, Kind::kDelete}) {
      const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(kind, "two"));
      // Deleting stops nobody's guest.
      const Course course = kind == Kind::kDelete ? kDonePaused : kDone;
      EXPECT_EQ(end.course, course);
      CO_EXPECT_OK(end.status);
    }
    // One disk; what is deleted may be saved again.
    for (const Kind kind : {Kind::kSave, Kind::kLoad, Kind::kDelete, Kind::kSave}) {
      SnapshotJob job = Job(kind, "one");
      job.nodes = {"disk-0-1-fmt"};
      job.vm_state = "disk-0-1-fmt";
      const SnapshotJobEnd end = co_await RunSnapshotJob(machine, job);
      const Course course = kind == Kind::kDelete ? kDonePaused : kDone;
      EXPECT_EQ(end.course, course);
      CO_EXPECT_OK(end.status);
    }
    // As we do it: on a guest that stands still, and stays so.
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    for (const Kind kind : {Kind::kSave, Kind::kLoad, Kind::kDelete}) {
      const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(kind, "paused"));
      EXPECT_EQ(end.course, kDonePaused);
      CO_EXPECT_OK(end.status);
      const auto state = co_await machine->RunState();
      EXPECT_EQ(state.value_or("?"), "paused");
    }
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

TEST_F(QemuSnapshotTest, WhatASaveRefuses) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(true));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "s1")));

    SnapshotJob job = Job(Kind::kSave, "t");
    job.nodes.clear();
    SnapshotJobEnd end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailed, kInvalidArgument,
               "QEMU could not save the snapshot 't': At least one device is required for "
               "snapshot");

    job = Job(Kind::kSave, "t");
    job.nodes.push_back("diskfmt1729");
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailed, kNotFound,
               "QEMU could not save the snapshot 't': No block device node 'diskfmt1729'");

    job = Job(Kind::kSave, "t");
    job.nodes = {"disk-0-1-fmt"};
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailed, kInvalidArgument,
               "QEMU could not save the snapshot 't': vmstate block device 'disk-0-0-fmt' does "
               "not exist");

    job = Job(Kind::kSave, "t");
    job.nodes.push_back("disk-0-0-file");  // what lies under a format
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailed, kFailedPrecondition,
               "QEMU could not save the snapshot 't': Device 'disk-0-0-file' is writable but does "
               "not support snapshots");

    job = Job(Kind::kSave, "t");
    job.nodes.push_back("disk-0-2-fmt");  // raw
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailed, kFailedPrecondition,
               "QEMU could not save the snapshot 't': Device 'disk-0-2-fmt' is writable but does "
               "not support snapshots");

    end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "s1"));
    EXPECT_END(end, kFailed, kAlreadyExists,
               "QEMU could not save the snapshot 's1': Snapshot 's1' already exists in one or "
               "more devices");

    // Refused before there is a job.
    job = Job(Kind::kSave, "t");
    job.id = "bad id";
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, Course(), kInvalidArgument,
               "QEMU could not save the snapshot 't': Invalid job ID 'bad id'");
    EXPECT_TRUE(end.status.GetPayload(kNothingChanged).has_value());

    const auto state = co_await machine->RunState();
    EXPECT_EQ(state.value_or("?"), "running");
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

TEST_F(QemuSnapshotTest, WhatALoadRefuses) {
  RunTool({"qemu-img", "snapshot", "-c", "alone", PathOf("0")});
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(true));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;

    SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "nope"));
    EXPECT_END(end, kFailedStopped, kNotFound,
               "QEMU could not load the snapshot 'nope': Snapshot 'nope' does not exist in one or "
               "more devices");
    // It had stopped the guest, and leaves it so.
    auto state = co_await machine->RunState();
    EXPECT_EQ(state.value_or("?"), "restore-vm");
    CO_EXPECT_OK(co_await machine->RunGuest());

    // Only one disk has it.
    end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "alone"));
    EXPECT_END(end, kFailedStopped, kNotFound,
               "QEMU could not load the snapshot 'alone': Snapshot 'alone' does not exist in one "
               "or more devices");
    CO_EXPECT_OK(co_await machine->RunGuest());

    SnapshotJob job = Job(Kind::kLoad, "alone");
    job.nodes = {"disk-0-0-fmt"};
    end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailedStopped, kFailedPrecondition,
               "QEMU could not load the snapshot 'alone': This is a disk-only snapshot. Revert to "
               "it  offline using qemu-img");
    CO_EXPECT_OK(co_await machine->RunGuest());
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// What is wrong with a job, and QEMU's word for it.
struct Malformed {
  std::vector<std::string> nodes;
  std::string vm_state;
  absl::StatusCode code;
  std::string text;
};

const std::vector<Malformed>& AllMalformed() {
  static const std::vector<Malformed> all = {
      {{},
       "disk-0-0-fmt",
       absl::StatusCode::kInvalidArgument,
       "At least one device is required for snapshot"},
      {{"diskfmt1729"},
       "diskfmt1729",
       absl::StatusCode::kNotFound,
       "No block device node 'diskfmt1729'"},
      {{"disk-0-0-fmt", "disk-0-2-fmt"},
       "disk-0-2-fmt",  // raw
       absl::StatusCode::kFailedPrecondition,
       "Device 'disk-0-2-fmt' is writable but does not support snapshots"},
  };
  return all;
}

TEST_F(QemuSnapshotTest, WhatIsMalformedIsRefusedWhateverItIsToDo) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(true));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "there")));
    const std::map<Kind, std::string> kinds = {{Kind::kSave, "save the snapshot 't'"},
                                               {Kind::kLoad, "load the snapshot 'there'"},
                                               {Kind::kDelete, "delete the snapshot 'there'"}};
    for (const auto& [kind, what] : kinds) {
      const bool stops = kind == Kind::kLoad;
      for (const Malformed& bad : AllMalformed()) {
        SnapshotJob job = Job(kind, kind == Kind::kSave ? "t" : "there");
        job.nodes = bad.nodes;
        job.vm_state = bad.vm_state;
        const SnapshotJobEnd end = co_await RunSnapshotJob(machine, job);
        EXPECT_EQ(end.course, stops ? kFailedStopped : kFailed) << end.status;
        EXPECT_EQ(end.status.code(), bad.code) << end.status;
        EXPECT_EQ(std::string(end.status.message()), "QEMU could not " + what + ": " + bad.text);
        if (stops) CO_EXPECT_OK(co_await machine->RunGuest());
      }
      // Refused before there is a job.
      SnapshotJob job = Job(kind, kind == Kind::kSave ? "t" : "there");
      job.id = "bad id";
      const SnapshotJobEnd end = co_await RunSnapshotJob(machine, job);
      EXPECT_END(end, Course(), kInvalidArgument,
                 "QEMU could not " + what + ": Invalid job ID 'bad id'");
      EXPECT_TRUE(end.status.GetPayload(kNothingChanged).has_value());
    }
    SnapshotJob job = Job(Kind::kLoad, "there");
    job.nodes = {"disk-0-1-fmt"};
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, job);
    EXPECT_END(end, kFailedStopped, kInvalidArgument,
               "QEMU could not load the snapshot 'there': vmstate block device 'disk-0-0-fmt' does "
               "not exist");
    EXPECT_EQ(co_await Count(machine, "there"), "1,1");
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// Somebody who takes no connection: a migration to there is never over.
UniqueFd ListenAt(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  EXPECT_EQ(::bind(listener.get(), generic, sizeof(address)), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  return listener;
}

TEST_F(QemuSnapshotTest, WhatAMigrationThatIsUnderWayKeepsOut) {
  const UniqueFd listener = ListenAt(MigrationPath());
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "there")));
    boost::json::object migration = {{"uri", "unix:" + test->MigrationPath()}};
    CO_EXPECT_OK((co_await machine->Command("migrate", std::move(migration))).status());
    SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_END(end, kFailedResumed, kFailedPrecondition,
               "QEMU could not save the snapshot 't': There's a migration process in progress");
    EXPECT_EQ(co_await Count(machine, "t"), "0,0");
    // A load has another word for it, and finds it when the disks are back already.
    end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "there"));
    EXPECT_END(end, kFailedStopped, kFailedPrecondition,
               "QEMU could not load the snapshot 'there': duplicate yank instance");
    EXPECT_FALSE(end.status.GetPayload(kNothingChanged).has_value());
    end = co_await RunSnapshotJob(machine, Job(Kind::kDelete, "there"));
    EXPECT_EQ(end.course, kDonePaused);
    CO_EXPECT_OK(end.status);
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// QEMU dies of multifd.
TEST_F(QemuSnapshotTest, WhatAFormerJobHasSetIsTakenBack) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    std::set<std::string> known = {"events", "block", "multifd"};
    auto launched = co_await test->LaunchMachine(test->DisksDocument(false), std::move(known));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    const SnapshotOptions options{"t", {{"0", "0"}, {"0", "1"}}, {"0", "0"}};
    CO_EXPECT_OK(co_await Leave(machine.get(), "block"));
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_END(end, kFailed, kFailedPrecondition,
               "QEMU could not save the snapshot 't': Block migration and snapshots are "
               "incompatible");
    CO_EXPECT_OK(co_await Leave(machine.get(), "multifd"));
    CO_EXPECT_OK(co_await SaveQemuSnapshot(machine, options));
    CO_EXPECT_OK(co_await Leave(machine.get(), "multifd"));
    CO_EXPECT_OK(co_await LoadQemuSnapshot(machine, options));
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// QEMU finds that when it has written the memory, and removes what the other disk has by then. And
// it dies if that is where the memory goes.
TEST_F(QemuSnapshotTest, ADiskWhoseDataIsElsewhereTakesNone) {
  RunTool({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=" + folder_ + "/data",
           PathOf("1"), "64M"});
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_END(end, kFailedResumed, kAborted,
               "QEMU could not save the snapshot 't': Could not create snapshot 't' on "
               "'disk-0-1-fmt'");
    EXPECT_EQ(co_await Count(machine, "t"), "0,0");
    auto state = co_await machine->RunState();
    EXPECT_EQ(state.value_or("?"), "running");
    // Ours is found before.
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    SnapshotOptions options{"t", {{"0", "0"}, {"0", "1"}}, {"0", "1"}};
    const absl::Status ours = co_await SaveQemuSnapshot(machine, options);
    EXPECT_TRUE(absl::IsFailedPrecondition(ours)) << ours;
    EXPECT_EQ(std::string(ours.message()),
              "the disk at Scsi/0/1 cannot hold snapshots: its data "
              "is in " +
                  test->folder_ + "/data");
    EXPECT_TRUE(ours.GetPayload(kNothingChanged).has_value());
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// It refuses a tag only if all of the disks have it.
TEST_F(QemuSnapshotTest, ASecondOfOneTagIsMadeByQemuAndDeletedByUs) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    SnapshotJob one = Job(Kind::kSave, "t");
    one.nodes = {"disk-0-0-fmt"};
    CO_EXPECT_OK(co_await RunOk(machine, one));
    SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_EQ(end.course, kDone);
    CO_EXPECT_OK(end.status);
    EXPECT_EQ(co_await Count(machine, "t"), "2,1");
    // Which of them is loaded nobody has said.
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    SnapshotOptions options{"t", {{"0", "0"}, {"0", "1"}}, {"0", "0"}};
    const absl::Status loaded = co_await LoadQemuSnapshot(machine, options);
    EXPECT_TRUE(absl::IsFailedPrecondition(loaded)) << loaded;
    EXPECT_EQ(std::string(loaded.message()), "the disk at Scsi/0/0 has 2 snapshots 't'");
    end = co_await RunSnapshotJob(machine, Job(Kind::kDelete, "t"));
    CO_EXPECT_OK(end.status);
    EXPECT_EQ(co_await Count(machine, "t"), "1,0");
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "t")));
    EXPECT_EQ(co_await Count(machine, "t"), "2,1");
    std::vector<DiskPlace> disks = options.disks;
    CO_EXPECT_OK(co_await DeleteQemuSnapshot(machine, "t", disks));
    EXPECT_EQ(co_await Count(machine, "t"), "0,0");
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// The reason is in what QEMU writes to its standard error, not in the job.
TEST_F(QemuSnapshotTest, OtherHardwareIsToldWithQemusWords) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "s1")));
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));

    schema::ComputeSystem other = test->DisksDocument(false);
    other.virtual_machine.compute_topology.memory.size_in_mb = 128;
    launched = co_await test->Launch(std::move(other));
    CO_EXPECT_OK(launched.status());
    machine = *launched;
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "s1"));
    EXPECT_EQ(end.course, kFailedStopped);
    EXPECT_EQ(end.status.code(), absl::StatusCode::kDataLoss) << end.status;
    const std::string text(end.status.message());
    EXPECT_EQ(text.rfind("QEMU could not load the snapshot 's1': Error -22 while loading VM state; "
                         "QEMU said: ",
                         0),
              0u)
        << text;
    EXPECT_NE(text.find("Size mismatch: pc.ram"), std::string::npos) << text;
    EXPECT_FALSE(end.status.GetPayload(kNothingChanged).has_value());
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// And what it has written of one job is not told of the next.
TEST_F(QemuSnapshotTest, AMissingDeviceIsToldOnce) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    schema::ComputeSystem more = test->DisksDocument(false);
    more.virtual_machine.devices.scsi["1"];
    auto launched = co_await test->Launch(std::move(more));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    CO_EXPECT_OK(co_await RunOk(machine, Job(Kind::kSave, "s1")));
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));

    launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    machine = *launched;
    SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "s1"));
    EXPECT_EQ(end.course, kFailedStopped);
    EXPECT_EQ(end.status.code(), absl::StatusCode::kDataLoss) << end.status;
    const std::string text(end.status.message());
    EXPECT_NE(text.find("; QEMU said: "), std::string::npos) << text;
    EXPECT_NE(text.find("Unknown savevm section or instance '"), std::string::npos) << text;

    // The guest stands still already.
    end = co_await RunSnapshotJob(machine, Job(Kind::kLoad, "nope"));
    EXPECT_END(end, kFailed, kNotFound,
               "QEMU could not load the snapshot 'nope': Snapshot 'nope' does not exist in one or "
               "more devices");
    end = co_await RunSnapshotJob(machine, Job(Kind::kDelete, "s1"));
    EXPECT_EQ(end.course, kDonePaused);
    CO_EXPECT_OK(end.status);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// QEMU's deletion of what is not there ends well; ours does not (see the conformance cases).
TEST_F(QemuSnapshotTest, DeletingWhatIsNotThereEndsWellInQemu) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(true));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kDelete, "nope"));
    EXPECT_EQ(end.course, kDonePaused);
    EXPECT_TRUE(end.status.ok()) << end.status;
    const std::vector<DiskPlace> disks = {{"0", "0"}, {"0", "1"}};
    const absl::Status ours = co_await DeleteQemuSnapshot(machine, "nope", disks);
    EXPECT_TRUE(absl::IsNotFound(ours)) << ours;
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// What a migration would not take a snapshot does not take either.
TEST_F(QemuSnapshotTest, WhatCannotMigrateCannotBeSaved) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    boost::json::object blocker = {
        {"node-name", "vvfat0"}, {"driver", "vvfat"}, {"dir", test->folder_}, {"rw", true}};
    CO_EXPECT_OK((co_await machine->Command("blockdev-add", std::move(blocker))).status());
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_END(end, kFailed, kFailedPrecondition,
               "QEMU could not save the snapshot 't': The vvfat (rw) format used by node 'vvfat0' "
               "does not support live migration");
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

TEST_F(QemuSnapshotTest, ADeviceThatCannotMigrateCannotBeSaved) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may serve folders";
  Run([](QemuSnapshotTest* test) -> Task<void> {
    schema::ComputeSystem document = test->DisksDocument(false);
    document.virtual_machine.devices.shares["0"].path = test->folder_;
    auto launched = co_await test->Launch(std::move(document));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_EQ(end.course, kFailed) << end.status;
    EXPECT_EQ(end.status.code(), absl::StatusCode::kFailedPrecondition) << end.status;
    const std::string text(end.status.message());
    EXPECT_EQ(text.rfind("QEMU could not save the snapshot 't': State blocked by non-migratable "
                         "device '",
                         0),
              0u)
        << text;
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

// A daemon that died left its job behind.
TEST_F(QemuSnapshotTest, AFormerJobIsDismissed) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    boost::json::object left = {{"job-id", SnapshotJob().id},
                                {"tag", "left"},
                                {"devices", boost::json::array{"disk-0-0-fmt"}}};
    CO_EXPECT_OK((co_await machine->Command("snapshot-delete", std::move(left))).status());
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    CO_EXPECT_OK(end.status);
    EXPECT_EQ(end.course, kDone);
    EXPECT_EQ(co_await JobsLeft(machine.get()), 0u);
    CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
  }(this));
}

TEST_F(QemuSnapshotTest, QemusEndIsTold) {
  Run([](QemuSnapshotTest* test) -> Task<void> {
    auto launched = co_await test->Launch(test->DisksDocument(false));
    CO_EXPECT_OK(launched.status());
    std::shared_ptr<QemuMachine> machine = *launched;
    ::kill(machine->pid(), SIGSTOP);
    auto kill_soon = [](pid_t pid) -> Task<void> {
      co_await Delay(milliseconds(200));
      ::kill(pid, SIGKILL);
    };
    Spawn(test->executor(), kill_soon(machine->pid()));
    const SnapshotJobEnd end = co_await RunSnapshotJob(machine, Job(Kind::kSave, "t"));
    EXPECT_EQ(end.status.code(), absl::StatusCode::kUnavailable) << end.status;
  }(this));
}

TEST(SnapshotDeadlineTest, AllowsForTheMemory) {
  EXPECT_GE(SnapshotDeadline(1024), std::chrono::seconds(100));
  EXPECT_GT(SnapshotDeadline(0), std::chrono::seconds(30));
}

}  // namespace
}  // namespace ferry::vm
