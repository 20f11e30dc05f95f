#include "vmmanager/sandbox/vm_inventory.h"

#include <google/protobuf/unknown_field_set.h>

#include <functional>
#include <utility>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

class VmInventoryTest : public SandboxTest {};

TEST_F(VmInventoryTest, FillsInDefaults) {
  auto vm = Create("web");
  EXPECT_EQ(vm->spec().memory_mb(), 256u);
  EXPECT_EQ(vm->spec().cpus(), 1u);
  EXPECT_EQ(vm->epoch(), 1u);
  const v1::Vm described = vm->Describe(true);
  EXPECT_EQ(described.machine_type(), "fake-1");
  EXPECT_THAT(described.machine_document_json(), HasSubstr(host_.settings.kernel));
  EXPECT_TRUE(vm->Describe(false).machine_document_json().empty());
}

// Whoever asks would be told back what they asked for, as if the VM had it.
TEST_F(VmInventoryTest, WhatOnlyANewerDaemonKnowsIsRefused) {
  const auto add_unknown = [](google::protobuf::Message* message) {
    message->GetReflection()->MutableUnknownFields(message)->AddVarint(99, 1);
  };
  v1::CreateVmRequest of_the_vm;
  of_the_vm.mutable_spec()->set_name("web");
  v1::CreateVmRequest of_its_card = of_the_vm;
  add_unknown(of_the_vm.mutable_spec());
  add_unknown(of_its_card.mutable_spec()->add_nics());
  for (const auto& [request, message] :
       {std::pair{of_the_vm, "ferry.v1.VmSpec"}, std::pair{of_its_card, "ferry.v1.NicSpec"}}) {
    const auto made = Await(host_.inventory->Create(request));
    EXPECT_EQ(made.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(made.status().message(), HasSubstr(absl::StrCat("field 99 of ", message, " ")));
    EXPECT_EQ(rpc::ReasonOf(made.status()), "unknown_field");
  }
  EXPECT_TRUE(host_.inventory->List().empty());
}

struct Refusal {
  const char* member;
  const char* rule;
  std::function<void(v1::VmSpec&)> spoil;
};

TEST_F(VmInventoryTest, RefusalsNameTheMemberAndTheRule) {
  auto disk = [](v1::VmSpec& spec, std::string name, std::string file, std::string format) {
    v1::DiskSpec* added = spec.add_disks();
    added->set_name(name);
    added->set_file(file);
    added->set_format(format);
  };
  const Refusal refusals[] = {
      {"name is \"\"", "at most 64", [](v1::VmSpec& s) { s.clear_name(); }},
      {"name is \"-x\"", "first a letter", [](v1::VmSpec& s) { s.set_name("-x"); }},
      {"name is \"a/b\"", "letters, digits", [](v1::VmSpec& s) { s.set_name("a/b"); }},
      {"name is", "at most 64", [](v1::VmSpec& s) { s.set_name(std::string(65, 'a')); }},
      {"memory is 63", "64 to", [](v1::VmSpec& s) { s.set_memory_mb(63); }},
      {"memory is 1048577", "1048576", [](v1::VmSpec& s) { s.set_memory_mb(1048577); }},
      {"cpus is 256", "1 to 255", [](v1::VmSpec& s) { s.set_cpus(256); }},
      {"65 disks", "at most 64",
       [&](v1::VmSpec& s) {
         for (int i = 0; i < 65; ++i) disk(s, "d" + std::to_string(i), "/d", "raw");
       }},
      {"disk format is \"vhd\"", "qcow2 or raw", [&](v1::VmSpec& s) { disk(s, "d", "/d", "vhd"); }},
      {"disk name is \"\"", "letters", [&](v1::VmSpec& s) { disk(s, "", "/d", "raw"); }},
      {"two disks are named \"d\"", "its own name",
       [&](v1::VmSpec& s) {
         disk(s, "d", "/d", "raw");
         disk(s, "d", "/e", "raw");
       }},
      {"disk d has no file", "file=", [&](v1::VmSpec& s) { disk(s, "d", "", "raw"); }},
      {"file of disk d is \"d.img\"", "absolute",
       [&](v1::VmSpec& s) { disk(s, "d", "d.img", "raw"); }},
      {"kernel is \"k\"", "absolute", [](v1::VmSpec& s) { s.set_kernel("k"); }},
      {"initrd is \"i\"", "absolute", [](v1::VmSpec& s) { s.set_initrd("i"); }},
      {"kernel_args", "at most 2048",
       [](v1::VmSpec& s) { s.set_kernel_args(std::string(2049, 'a')); }},
  };
  for (const Refusal& refusal : refusals) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    refusal.spoil(*request.mutable_spec());
    const absl::Status status = Await(host_.inventory->Create(request)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refusal.member;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.member));
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.rule));
  }
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_TRUE(EventTypes().empty());
}

TEST_F(VmInventoryTest, DocumentCarriesDisksAndKernelArguments) {
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name("web");
  request.mutable_spec()->set_kernel_args("debug");
  v1::DiskSpec* disk = request.mutable_spec()->add_disks();
  disk->set_name("data");
  disk->set_file("/images/data.qcow2");
  disk->set_read_only(true);
  auto vm = *Await(host_.inventory->Create(request));
  const schema::VirtualMachine& machine = vm->document().virtual_machine;
  EXPECT_EQ(machine.chipset.linux_kernel_direct->kernel_cmd_line, "quiet debug");
  const schema::Attachment& attachment = machine.devices.scsi.at("0").attachments.at("0");
  EXPECT_EQ(attachment.path, "/images/data.qcow2");
  EXPECT_EQ(attachment.format, "qcow2");
  EXPECT_TRUE(attachment.read_only);
}

TEST_F(VmInventoryTest, NameIsTakenUnlessTheSameRequestMadeIt) {
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name("web");
  request.set_request_id("r1");
  auto first = *Await(host_.inventory->Create(request));
  EXPECT_EQ(*Await(host_.inventory->Create(request)), first);
  request.set_request_id("r2");
  auto second = Await(host_.inventory->Create(request));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("web"));
  EXPECT_EQ(host_.inventory->List().size(), 1u);
}

TEST_F(VmInventoryTest, CreateThatCannotBeStoredLeavesNothing) {
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name("web");
  EXPECT_EQ(Await(host_.inventory->Create(request)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_NE(Create("web"), nullptr);
}

TEST_F(VmInventoryTest, FindsByNameAndByIdAndHelpsOtherwise) {
  auto vm = Create("web");
  EXPECT_EQ(*host_.inventory->Find("web"), vm);
  EXPECT_EQ(*host_.inventory->Find(vm->id()), vm);
  const absl::Status unknown = host_.inventory->Find("db").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(unknown.message(), HasSubstr("\"db\""));
  EXPECT_EQ(rpc::ReasonOf(unknown), "no_such_vm");
  EXPECT_THAT(rpc::NextStepOf(unknown), HasSubstr("ferryctl list"));
}

TEST_F(VmInventoryTest, DepartedVmIsLookedForElsewhere) {
  auto vm = Create("web");
  const std::string id = vm->id();
  ASSERT_TRUE(Await(host_.inventory->Forget(id, "host-b:1")).ok());
  for (const std::string& key : {id, std::string("web")}) {
    const absl::Status status = host_.inventory->Find(key).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(status.message(), HasSubstr("moved to host-b:1"));
    EXPECT_THAT(status.message(), HasSubstr("--host host-b:1"));
  }
  auto again = Create("web");
  EXPECT_EQ(*host_.inventory->Find("web"), again);
}

// It may come back at once, so nothing of it may be left by then, whatever the fence does.
TEST_F(VmInventoryTest, WhatLeavesIsKnownUntilNothingOfItIsWritten) {
  const std::string id = Create("web")->id();
  ASSERT_TRUE(Await(host_.store.PutContainer({"c1", id, "one", ""})).ok());
  ASSERT_TRUE(Await(host_.store.PutContainer({"c2", "another", "two", ""})).ok());
  bool known_meanwhile = false;
  host_.inventory->set_on_forgotten([&](const std::string& leaves) -> Task<absl::Status> {
    known_meanwhile = host_.inventory->Find(leaves).ok();
    co_return absl::OkStatus();
  });
  bool gone_before_fence = false;
  host_.fence.on_call = [&](const std::string& call) {
    if (call == "forget") gone_before_fence = !host_.inventory->Find(id).ok();
  };
  host_.store.before_delete_vm = [](const std::string&) {
    return absl::ResourceExhaustedError("the disk is full");
  };
  EXPECT_FALSE(Await(host_.inventory->Forget(id, "host-b:1")).ok());
  EXPECT_TRUE(host_.inventory->Find(id).ok());
  host_.store.before_delete_vm = nullptr;
  EXPECT_TRUE(Await(host_.inventory->Forget(id, "host-b:1")).ok());
  EXPECT_TRUE(known_meanwhile);
  EXPECT_TRUE(gone_before_fence);
  EXPECT_EQ(Row(id).id, "");
  const auto containers = Await(host_.store.ListContainers());
  ASSERT_EQ(containers->size(), 1u);
  EXPECT_EQ(containers->front().id, "c2");
  host_.fence.on_call = [](const std::string&) {};
}

TEST_F(VmInventoryTest, ArrivalMustNotClash) {
  auto vm = Create("web");
  VmRow row;
  row.id = vm->id();
  row.name = "other";
  EXPECT_EQ(host_.inventory->AddIncoming("s", row, {}, {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  row.id = "another-id";
  row.name = "web";
  const absl::Status clash = host_.inventory->AddIncoming("s", row, {}, {}).status();
  EXPECT_EQ(clash.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(clash.message(), HasSubstr("named web"));
  row.name = "new";
  ASSERT_TRUE(host_.inventory->AddIncoming("s", row, {}, {}).ok());
  EXPECT_TRUE(host_.inventory->Find("another-id").ok());
}

TEST_F(VmInventoryTest, ArrivalIsItsMigrationsAlone) {
  VmRow row;
  row.id = "on-its-way";
  row.name = "web";
  auto vm = host_.inventory->AddIncoming("s", row, {}, {});
  ASSERT_TRUE(vm.ok());
  // It runs at its source.
  const absl::Status started = Await((*vm)->Start());
  EXPECT_EQ(started.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(started.message(), HasSubstr("migration s is under way"));
  EXPECT_EQ(Await(host_.inventory->Delete(*vm)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*vm)->OpenMigration("t", "elsewhere").code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(VmInventoryTest, DeleteNeedsAStoppedVm) {
  auto vm = Boot();
  const absl::Status running = Await(host_.inventory->Delete(vm));
  EXPECT_EQ(running.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(running.message(), HasSubstr("RUNNING"));
  EXPECT_THAT(NextStepOf(running), HasSubstr("ferryctl stop web"));
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1000))).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_TRUE(host_.inventory->List().empty());
  EXPECT_EQ(Row(vm->id()).id, "");
}

TEST_F(VmInventoryTest, StartDuringADeleteFindsNothing) {
  auto vm = Create("web");
  auto deleted = Begin(host_.inventory->Delete(vm));
  auto started = Begin(vm->Start());
  EXPECT_TRUE(Finish(deleted).ok());
  const absl::Status status = Finish(started);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("it was deleted"));
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_EQ(Row(vm->id()).id, "");
}

TEST_F(VmInventoryTest, DeleteDuringAStartIsRefused) {
  auto vm = Create("web");
  host_.backend.script().Block("Start");
  auto started = Begin(vm->Start());
  Await(host_.backend.script().WaitBlocked("Start"));
  auto deleted = Begin(host_.inventory->Delete(vm));
  Settle();
  host_.backend.script().Release("Start");
  EXPECT_TRUE(Finish(started).ok());
  EXPECT_EQ(Finish(deleted).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(VmInventoryTest, DeletedVmIsNotWrittenToTheStoreAgain) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Stop(false, milliseconds(60'000))).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  Settle();
  EXPECT_EQ(Row(vm->id()).id, "");
}

TEST_F(VmInventoryTest, RestartFindsVmsAsTheyWere) {
  auto stopped = Create("stopped");
  auto vm = Boot("running");
  auto paused = Boot("paused");
  ASSERT_TRUE(Await(paused->Pause()).ok());
  host_.System(*vm)->Step(5);
  RestartDaemon();
  EXPECT_EQ((*host_.inventory->Find("stopped"))->state(), v1::VM_STATE_STOPPED);
  auto again = *host_.inventory->Find("running");
  EXPECT_NE(again, vm);
  EXPECT_EQ(again->id(), vm->id());
  EXPECT_EQ(again->spec().memory_mb(), 256u);
  EXPECT_EQ(again->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*again)->counter(), 5u);
  auto still_paused = *host_.inventory->Find("paused");
  EXPECT_EQ(still_paused->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Await(still_paused->Resume()).ok());
  EXPECT_TRUE(Await(again->Stop(false, milliseconds(60'000))).ok());
}

TEST_F(VmInventoryTest, RestartKeepsProcesses) {
  auto vm = Boot();
  guest::ProcessSpec spec;
  spec.command = {"sleep", "100"};
  auto process = *Await((*Await(vm->UsableGuest()))->CreateProcess(spec));
  Settle();
  RestartDaemon();
  auto again = *host_.inventory->Find("web");
  auto guest = *Await(again->UsableGuest());
  auto found = guest->Find(process->pid());
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->spec().command, spec.command);
  EXPECT_EQ(again->Describe(false).processes(), 1u);
  Settle();
  guests_.Agent(vm->id()).Exit(process->pid(), 7);
  auto exit = Await(found->Wait());
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->value, 7u);
}

TEST_F(VmInventoryTest, UptimeIsSinceTheGuestsBoot) {
  auto stopped = Create("stopped");
  EXPECT_EQ(stopped->Describe(false).uptime_ms(), 0u);
  auto vm = Boot();
  EXPECT_GT(vm->Describe(false).uptime_ms(), 0u);
  const uint64_t started = vm->guest()->started_unix_ms();
  RestartDaemon();
  auto again = *host_.inventory->Find(vm->id());
  EXPECT_EQ(again->guest()->started_unix_ms(), started);
  EXPECT_GT(again->Describe(false).uptime_ms(), 0u);
  ASSERT_TRUE(Await(again->Stop(true, milliseconds(60'000))).ok());
  EXPECT_EQ(again->Describe(false).uptime_ms(), 0u);
}

TEST_F(VmInventoryTest, VmThatEndedWhileTheDaemonWasAwayIsStoppedWithTheReason) {
  auto vm = Boot();
  host_.backend.script().FailNext("Adopt", absl::NotFoundError("no such process"));
  RestartDaemon();
  auto again = *host_.inventory->Find("web");
  EXPECT_EQ(again->state(), v1::VM_STATE_STOPPED);
  EXPECT_THAT(again->Describe(false).state_reason(), HasSubstr("ended while the daemon was away"));
  EXPECT_TRUE(Row(vm->id()).adoption_record.empty());
  EXPECT_TRUE(Await(again->Start()).ok());
}

TEST_F(VmInventoryTest, UnreadableRowIsLeftAlone) {
  Create("good");
  VmRow row;
  row.id = "bad";
  row.name = "bad";
  row.spec_json = "{";
  ASSERT_TRUE(Await(host_.store.PutVm(row)).ok());
  RestartDaemon();
  EXPECT_EQ(host_.inventory->List().size(), 1u);
  EXPECT_EQ(Row("bad").spec_json, "{");
}

TEST_F(VmInventoryTest, GuestContextIdsDoNotClash) {
  host_.settings.use_vsock = true;
  auto a = Create("a");
  auto b = Create("b");
  EXPECT_GE(a->guest_cid(), 1024u);
  EXPECT_NE(a->guest_cid(), b->guest_cid());
  EXPECT_EQ(a->guest_link(), "vsock");
}

}  // namespace
}  // namespace ferry::vm
