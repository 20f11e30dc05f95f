#include <fcntl.h>

#include <fstream>

#include "tests/integration/qemu_fixture.h"
#include "vmmanager/qemu/accelerator_probe.h"
#include "vmmanager/qemu/qemu_capabilities.h"
#include "vmmanager/qemu/qmp_client.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

using schema::SystemState;

class QemuLifecycleTest : public QemuFixture {
 protected:
  Task<void> Lifecycle() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    EXPECT_EQ((*backend)->info().accelerator, "tcg");
    EXPECT_EQ((*backend)->info().machine_type.find("pc-q35-"), 0u);
    auto system = co_await StartSystem(backend->get());
    CO_EXPECT_OK(system.status());
    ComputeSystem* vm = system->get();
    auto log = Watch(vm);
    EXPECT_EQ(co_await StateOf(vm), SystemState::kRunning);
    const schema::StartOptions options;
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await vm->Start(options, nullptr)));
    CO_EXPECT_OK(co_await vm->Pause());
    CO_EXPECT_OK(co_await vm->Pause());
    EXPECT_EQ(co_await StateOf(vm), SystemState::kPaused);
    CO_EXPECT_OK(co_await vm->Resume());
    EXPECT_EQ(co_await StateOf(vm), SystemState::kRunning);
    CO_EXPECT_OK(co_await vm->Shutdown());
    CO_EXPECT_OK(co_await vm->Terminate());
    CO_EXPECT_OK(co_await vm->Terminate());
    const SystemEvent exit = co_await log->Await(SystemEvent::Kind::kExited);
    EXPECT_EQ(exit.exit.cause, SystemExit::Cause::kTerminated);
    EXPECT_NE(log->Find(SystemEvent::Kind::kPaused), nullptr);
    EXPECT_NE(log->Find(SystemEvent::Kind::kResumed), nullptr);
    EXPECT_EQ(co_await StateOf(vm), SystemState::kStopped);
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await vm->Pause()));
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  Task<void> Killed() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    auto system = co_await StartSystem(backend->get());
    CO_EXPECT_OK(system.status());
    auto log = Watch(system->get());
    ::kill(pids_.back(), SIGKILL);
    const SystemEvent exit = co_await log->Await(SystemEvent::Kind::kExited);
    EXPECT_EQ(exit.exit.cause, SystemExit::Cause::kCrashed);
    EXPECT_NE(exit.exit.detail.find("signal 9"), std::string::npos) << exit.exit.detail;
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  Task<void> BootFailure() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    schema::ComputeSystem document = Document();
    document.virtual_machine.chipset.linux_kernel_direct = {"/nonexistent/vmlinuz", "", ""};
    const std::string id = kId;
    auto system = co_await (*backend)->Create(id, document);
    CO_EXPECT_OK(system.status());
    const schema::StartOptions options;
    const absl::Status status = co_await (*system)->Start(options, nullptr);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("/nonexistent/vmlinuz"), absl::string_view::npos) << status;
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  Task<void> BadRequests() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    const std::string bad_id = "x";
    const std::string id = kId;
    schema::ComputeSystem document = Document();
    EXPECT_TRUE(absl::IsInvalidArgument((co_await (*backend)->Create(bad_id, document)).status()));
    document.virtual_machine.platform.machine_type = "pc-q35-99.9";
    EXPECT_TRUE(absl::IsFailedPrecondition((co_await (*backend)->Create(id, document)).status()));
  }

  Task<void> Adoption() {
    auto first = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(first.status());
    auto system = co_await StartSystem(first->get());
    CO_EXPECT_OK(system.status());
    const std::string record = (*system)->adoption_record();
    system->reset();  // the daemon dies; QEMU does not
    const std::string id = kId;
    const std::string other = "99999999-2222-3333-4444-555555555555";
    const schema::ComputeSystem document = Document();
    auto second = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(second.status());
    auto wrong = co_await (*second)->Adopt(other, document, record);
    EXPECT_TRUE(absl::IsNotFound(wrong.status())) << wrong.status();
    auto adopted = co_await (*second)->Adopt(id, document, record);
    CO_EXPECT_OK(adopted.status());
    EXPECT_EQ(co_await StateOf(adopted->get()), SystemState::kRunning);
    auto log = Watch(adopted->get());
    CO_EXPECT_OK(co_await (*adopted)->Pause());
    CO_EXPECT_OK(co_await (*adopted)->Terminate());
    const SystemEvent exit = co_await log->Await(SystemEvent::Kind::kExited);
    EXPECT_EQ(exit.exit.cause, SystemExit::Cause::kTerminated);
    auto again = co_await (*second)->Adopt(id, document, record);
    EXPECT_TRUE(absl::IsNotFound(again.status())) << again.status();
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  Task<void> Disks() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    auto system = co_await StartSystem(backend->get());
    CO_EXPECT_OK(system.status());
    const std::string image = folder_ + "/disk,1.img";
    { std::ofstream(image) << std::string(65536, '\0'); }
    schema::ModifySettingRequest request;
    request.resource_path = "VirtualMachine/Devices/Scsi/0/Attachments/3";
    request.request_type = "Add";
    request.settings_json =
        R"({"Type":"VirtualDisk","Path":")" + image + R"(","Ferry":{"Name":"d","Format":"raw"}})";
    CO_EXPECT_OK(co_await (*system)->Modify(request));
    EXPECT_TRUE(absl::IsAlreadyExists(co_await (*system)->Modify(request)));
    request.request_type = "Remove";
    CO_EXPECT_OK(co_await (*system)->Modify(request));
    EXPECT_TRUE(absl::IsNotFound(co_await (*system)->Modify(request)));
    request.resource_path = "VirtualMachine/ComputeTopology/Memory";
    const absl::Status other = co_await (*system)->Modify(request);
    EXPECT_TRUE(absl::IsUnimplemented(other)) << other;
    EXPECT_NE(other.message().find("Memory"), absl::string_view::npos);
    CO_EXPECT_OK(co_await (*system)->Terminate());
  }

  Task<void> Save() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    auto system = co_await StartSystem(backend->get());
    CO_EXPECT_OK(system.status());
    const schema::SaveOptions options;
    const std::string file = folder_ + "/state.bin";
    const auto open = [&file] {
      return UniqueFd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    };
    UniqueFd early = open();
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await (*system)->Save(options, std::move(early))));
    CO_EXPECT_OK(co_await (*system)->Pause());
    UniqueFd to = open();
    CO_EXPECT_OK(co_await (*system)->Save(options, std::move(to)));
    EXPECT_GT(std::filesystem::file_size(file), 100'000u);
    CO_EXPECT_OK(co_await (*system)->Resume());
    EXPECT_EQ(co_await StateOf(system->get()), SystemState::kRunning);
    CO_EXPECT_OK(co_await (*system)->Terminate());
  }

  // QEMU's second monitor, which Ferry leaves to others.
  Task<std::unique_ptr<QmpClient>> Monitor() {
    std::unique_ptr<QmpClient> monitor;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/state")) {
      if (!entry.is_directory()) continue;
      const auto folder = OpenFolder(entry.path());
      auto socket = ConnectUnix(folder->get(), "qmp-spare");
      EXPECT_TRUE(socket.ok()) << socket.status();
      if (socket.ok()) monitor = std::make_unique<QmpClient>(executor(), *std::move(socket));
    }
    if (monitor) {
      const absl::Status ready = co_await monitor->WaitReady(milliseconds(60'000));
      EXPECT_TRUE(ready.ok()) << ready;
    }
    co_return monitor;
  }

  static Task<std::string> RunStateOf(QmpClient* monitor) {
    auto status = co_await monitor->Execute("query-status");
    EXPECT_TRUE(status.ok()) << status.status();
    if (!status.ok()) co_return "";
    co_return std::string(status->as_object().at("status").as_string());
  }

  Task<void> Anticipation() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    CO_EXPECT_OK(backend.status());
    auto system = co_await StartSystem(backend->get());
    CO_EXPECT_OK(system.status());
    CO_EXPECT_OK(co_await (*system)->Pause());
    auto monitor = co_await Monitor();
    // Another command follows, or the connection ends: it has not been given.
    monitor->Anticipate("cont");
    EXPECT_EQ(co_await RunStateOf(monitor.get()), "paused");
    monitor->Anticipate("cont");
    co_await asio::post(executor(), asio::use_awaitable);
    monitor.reset();
    monitor = co_await Monitor();
    EXPECT_EQ(co_await RunStateOf(monitor.get()), "paused");
    monitor->Anticipate("cont");
    CO_EXPECT_OK((co_await monitor->Execute("cont")).status());
    EXPECT_EQ(co_await RunStateOf(monitor.get()), "running");
    CO_EXPECT_OK(co_await (*system)->Terminate());
  }

  Task<void> Accelerator() {
    std::filesystem::create_directories(folder_ + "/state");
    const std::string binary = "/usr/bin/qemu-system-x86_64";
    auto choice = co_await ProbeAccelerator(binary, folder_ + "/state", true);
    CO_EXPECT_OK(choice.status());
    EXPECT_TRUE(choice->accelerator == "tcg" || choice->accelerator == "kvm");
    EXPECT_FALSE(choice->reason.empty());
    std::cout << choice->accelerator << ": " << choice->reason << "\n";
    auto again = co_await ProbeAccelerator(binary, folder_ + "/state", true);
    CO_EXPECT_OK(again.status());
    EXPECT_EQ(again->accelerator, choice->accelerator);
    EXPECT_EQ(again->reason, choice->reason);
  }

  Task<void> Capabilities() {
    auto found = co_await ProbeCapabilities("/usr/bin/qemu-system-x86_64");
    CO_EXPECT_OK(found.status());
    EXPECT_TRUE(found->machine_types.contains(found->machine_type));
    EXPECT_TRUE(found->can_migrate_with("return-path"));
    EXPECT_FALSE(found->version.empty());
    EXPECT_TRUE(found->lean_machine);
    const std::string program = "/bin/true";
    EXPECT_FALSE((co_await ProbeCapabilities(program)).ok());
  }
};

TEST_F(QemuLifecycleTest, StartPauseResumeTerminate) { Run(Lifecycle()); }
TEST_F(QemuLifecycleTest, DeathOfQemuIsSeenAndNamed) { Run(Killed()); }
TEST_F(QemuLifecycleTest, FailedBootSaysWhyAndLeavesNothing) { Run(BootFailure()); }
TEST_F(QemuLifecycleTest, BadIdsAndUnknownMachinesAreRefused) { Run(BadRequests()); }
TEST_F(QemuLifecycleTest, QemuOutlivesItsOwnerAndIsAdopted) { Run(Adoption()); }
TEST_F(QemuLifecycleTest, DisksComeAndGo) { Run(Disks()); }
TEST_F(QemuLifecycleTest, SavesThePausedState) { Run(Save()); }
TEST_F(QemuLifecycleTest, ACommandIsGivenWithItsLastByte) { Run(Anticipation()); }
TEST_F(QemuLifecycleTest, MeasuresTheAcceleratorOnce) { Run(Accelerator()); }
TEST_F(QemuLifecycleTest, AsksTheBinaryForWhatItCan) { Run(Capabilities()); }

}  // namespace
}  // namespace ferry::vm
