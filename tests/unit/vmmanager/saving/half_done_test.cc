// What a daemon leaves of a save or a restore, and the next one makes of it.
#include <fcntl.h>

#include <fstream>

#include "tests/unit/vmmanager/saving/saving_fixture.h"
#include "vmmanager/saves/file_identity.h"
#include "vmmanager/saving/save_drafts.h"

namespace ferry::vm {
namespace {

// A row as a daemon leaves it that dies between two steps.
class HalfDoneTest : public SavingTest {
 protected:
  void LeaveRow(const UtilityVm& vm, bool consumed) {
    state::v1::SavedRecord record;
    record.set_schema_version(1);
    record.set_file(OwnFile(vm));
    record.set_consumed(consumed);
    LeaveRow(vm, record.SerializeAsString());
  }
  void LeaveRow(const UtilityVm& vm, const std::string& saved) {
    // It writes its rows a last time, as one that dies does not.
    Await(host_.inventory->Detach());
    VmRow row = Row(vm.id());
    row.saved = saved;
    EXPECT_TRUE(Await(host_.store.PutVm(row)).ok());
  }
  // It was writing the VM to this file.
  void LeaveDraft(const UtilityVm& vm, const std::string& file) {
    Await(host_.inventory->Detach());
    const UniqueFd open(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    const auto identity = IdentityOf(open.get());
    ASSERT_TRUE(identity.ok()) << identity.status();
    state::v1::SaveDraftRecord draft;
    draft.set_schema_version(1);
    draft.set_file(file);
    draft.set_inode(identity->inode);
    draft.set_born_ns(identity->born_ns);
    VmRow row = Row(vm.id());
    row.save_draft = draft.SerializeAsString();
    EXPECT_TRUE(Await(host_.store.PutVm(row)).ok());
  }
  // Up to where its VMM writes its memory, until "Save" is released.
  Pending<absl::Status> BeginSave(const std::shared_ptr<UtilityVm>& vm, const std::string& file,
                                  bool live) {
    host_.backend.script().Block("Save");
    v1::SaveVmRequest request;
    request.set_to_file(file);
    request.set_live(live);
    auto saving = Begin(saves_->Save(vm, request));
    Await(host_.backend.script().WaitBlocked("Save"));
    return saving;
  }
  std::string OwnFile(const UtilityVm& vm) const {
    return folder_.path() + "/state/saved/" + vm.id() + "/file.ferry";
  }
};

TEST_F(HalfDoneTest, WhatIsInItsFileIsNotTakenOverToo) {
  auto vm = Boot();
  ASSERT_TRUE(Await(host_.System(*vm)->Pause()).ok());
  LeaveRow(*vm, false);
  SandboxTest::RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_SAVED);
  EXPECT_FALSE(host_.backend.Runs(vm->id()));
  EXPECT_EQ(Found()->system(), nullptr);
}

TEST_F(HalfDoneTest, AUsersFileIsRememberedUntilTheVmIsInIt) {
  for (const bool live : {true, false}) {
    const std::string file = folder_.path() + (live ? "/live" : "/moment");
    auto vm = live ? Boot() : Found();
    auto saving = BeginSave(vm, file, live);
    state::v1::SaveDraftRecord draft;
    EXPECT_TRUE(draft.ParseFromString(Row(vm->id()).save_draft));
    EXPECT_EQ(draft.file(), file);
    EXPECT_NE(draft.inode(), 0u);
    host_.backend.script().Release("Save");
    EXPECT_TRUE(Finish(saving).ok());
    EXPECT_TRUE(Row(vm->id()).save_draft.empty());
    EXPECT_EQ(Row(vm->id()).saved.empty(), live);
    RestartDaemon();
    EXPECT_TRUE(std::filesystem::exists(file));
  }
}

TEST_F(HalfDoneTest, WhatCannotBeRememberedOfAUsersFileIsNotBegun) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  Settle();
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_EQ(Save(vm, file).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_FALSE(std::filesystem::exists(file));
  // Nor is it told that it was saved in one of which that cannot be forgotten.
  auto saving = BeginSave(vm, file, true);
  Settle();
  // The first is that it runs on.
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"), 1);
  host_.backend.script().Release("Save");
  EXPECT_EQ(Finish(saving).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(HalfDoneTest, ADaemonThatStopsAsAVmIsInItsUsersFileLeavesItThere) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  auto saving = BeginSave(vm, file, false);
  host_.backend.script().Release("Save");
  // Whenever its row is written, it names the file in one way alone.
  v1::SetVmRequest change;
  while (!saving->has_value()) {
    change.set_autostart(!change.autostart());
    ASSERT_TRUE(Await(vm->Set(change)).ok());
    const VmRow row = Row(vm->id());
    ASSERT_TRUE(row.saved.empty() || row.save_draft.empty());
  }
  EXPECT_TRUE(Finish(saving).ok());
  RestartDaemon();
  Settle();
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_EQ(Found()->state(), v1::VM_STATE_SAVED);
}

TEST(DraftFateTest, AFileGoesOnlyIfItsVmsMemoryIsElsewhere) {
  state::v1::SavedRecord in_it;
  in_it.set_file("/moment");
  state::v1::SavedRecord elsewhere;
  elsewhere.set_file("/other");
  const state::v1::SavedRecord unreadable;
  for (const bool has_vmm : {false, true}) {
    // A VMM that is saved and does not end is not let run again.
    EXPECT_EQ(FateOfDraft("/moment", in_it, has_vmm), DraftFate::kStays);
    EXPECT_EQ(FateOfDraft("/moment", unreadable, has_vmm), DraftFate::kStays);
    EXPECT_EQ(FateOfDraft("/moment", elsewhere, has_vmm), DraftFate::kGoes);
  }
  EXPECT_EQ(FateOfDraft("/moment", std::nullopt, true), DraftFate::kGoes);
  EXPECT_EQ(FateOfDraft("/moment", std::nullopt, false), DraftFate::kMayServe);
}

TEST_F(HalfDoneTest, AUsersFileThatNoVmIsInIsRemoved) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  std::ofstream(file) << "whole, and of no use";
  LeaveDraft(*vm, file);
  RestartDaemon();
  Until([&] { return !std::filesystem::exists(file); });
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Row(vm->id()).save_draft.empty());
  // The next one may have its name.
  EXPECT_TRUE(Save(Found(), file).ok());
}

TEST_F(HalfDoneTest, AUsersFileThatMayBeAllThereIsOfAVmStays) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  std::ofstream(file) << "whole";
  LeaveDraft(*vm, file);
  host_.backend.script().FailNext("Adopt", absl::NotFoundError("it does not run any more"));
  RestartDaemon();
  Settle();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_STOPPED);
  EXPECT_TRUE(Row(vm->id()).save_draft.empty());
  RestartDaemon();
  Settle();
  EXPECT_TRUE(std::filesystem::exists(file));
}

// Although nobody could write down that it is no draft any more.
TEST_F(HalfDoneTest, AUsersFileThatItsVmWentOnFromStays) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  ASSERT_TRUE(Save(vm, file).ok());
  LeaveDraft(*vm, file);
  VmRow row = Row(vm->id());
  row.saved.clear();
  ASSERT_TRUE(Await(host_.store.PutVm(row)).ok());
  Settle();
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  RestartDaemon();
  ASSERT_FALSE(Row(vm->id()).save_draft.empty());
  v1::StartVmRequest request;
  request.set_from_file(file);
  ASSERT_TRUE(Start(Found(), request).ok());
  EXPECT_TRUE(Row(vm->id()).save_draft.empty());
  RestartDaemon();
  Settle();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(HalfDoneTest, AUsersFileThatItsVmIsSavedInStays) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  std::ofstream(file) << "whole";
  ASSERT_TRUE(Await(host_.System(*vm)->Pause()).ok());
  LeaveDraft(*vm, file);
  VmRow row = Row(vm->id());
  state::v1::SavedRecord record;
  record.set_schema_version(1);
  record.set_file(file);
  record.set_kept(true);
  row.saved = record.SerializeAsString();
  ASSERT_TRUE(Await(host_.store.PutVm(row)).ok());
  RestartDaemon();
  Settle();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(Row(vm->id()).save_draft.empty());
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(HalfDoneTest, AnotherFileThatHasTheNameByNowStays) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  std::ofstream(file) << "whole, and of no use";
  LeaveDraft(*vm, file);
  std::filesystem::rename(file, file + ".elsewhere");
  std::ofstream(file) << "its user's";
  RestartDaemon();
  Settle();
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_TRUE(std::filesystem::exists(file + ".elsewhere"));
}

TEST_F(HalfDoneTest, WhatRunsIsNotInItsFile) {
  auto vm = Boot();
  LeaveRow(*vm, false);
  SandboxTest::RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
}

TEST_F(HalfDoneTest, WhatWasConsumedAndStandsStillIsNeverRestoredAgain) {
  auto vm = Boot();
  ASSERT_TRUE(Await(host_.System(*vm)->Pause()).ok());
  LeaveRow(*vm, true);
  SandboxTest::RestartDaemon();
  Settle();
  EXPECT_NE(Found()->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
  // It was not restored a moment ago, so it runs on as any VM does whose daemon died.
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*Found())->Step());
}

TEST_F(HalfDoneTest, WhatWasConsumedAndHasEndedIsNotRestoredAgain) {
  auto vm = Boot();
  LeaveRow(*vm, true);
  host_.backend.script().FailNext("Adopt", absl::NotFoundError("it does not run any more"));
  std::filesystem::create_directories(std::filesystem::path(OwnFile(*vm)).parent_path());
  std::ofstream(OwnFile(*vm)) << "its memory";
  RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_STOPPED);
  // But kept, for nobody can tell whether it got to run.
  EXPECT_FALSE(std::filesystem::exists(OwnFile(*vm)));
  EXPECT_TRUE(std::filesystem::exists(OwnFile(*vm) + ".refused"));
  ASSERT_TRUE(Start(Found()).ok());
  EXPECT_TRUE(Row(vm->id()).saved.empty());
  RestartDaemon();
  EXPECT_TRUE(std::filesystem::exists(OwnFile(*vm) + ".refused"));
}

TEST_F(HalfDoneTest, APausedVmThatWasConsumedStaysPaused) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  LeaveRow(*vm, true);
  SandboxTest::RestartDaemon();
  Settle();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
  EXPECT_TRUE(Await(Found()->Resume()).ok());
  EXPECT_TRUE(host_.System(*Found())->Step());
}

TEST_F(HalfDoneTest, WhatANewerDaemonSavedIsLeftToIt) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  const std::string record(3, '\xff');
  LeaveRow(*vm, record);
  RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(rpc::ReasonOf(Start(Found()).status()), "saved_by_newer");
  v1::SetVmRequest set;
  set.set_autostart(true);
  ASSERT_TRUE(Await(Found()->Set(set)).ok());
  EXPECT_EQ(Row(vm->id()).saved, record);
  v1::StartVmRequest request;
  request.set_discard_saved(true);
  ASSERT_TRUE(Start(Found(), request).ok());
  EXPECT_TRUE(Row(vm->id()).saved.empty());
}

}  // namespace
}  // namespace ferry::vm
