#include <fcntl.h>

#include <filesystem>
#include <fstream>

#include "tests/integration/container_host_client.h"
#include "tests/integration/qemu_fixture.h"
#include "tests/unit/vmmanager/layers/memory_file.h"
#include "tests/unit/vmmanager/layers/tar_maker.h"
#include "vmmanager/layers/layer_builder.h"

// Containers in the real guest image under the real QEMU.
namespace ferry::vm {
namespace {

namespace fs = std::filesystem;
using bridge::ContainerHostClient;
using bridge::ContainerState;
using bridge::ReadUntil;

const std::string kOne(64, '1');
const std::string kTwo(64, '2');
constexpr int kManyNames = 500;

constexpr char kMounts[] =
    R"("mounts":[{"destination":"/proc","type":"proc","source":"proc"},)"
    R"({"destination":"/dev","type":"tmpfs","source":"tmpfs",)"
    R"("options":["nosuid","strictatime","mode=755","size=65536k"]},)"
    R"({"destination":"/dev/pts","type":"devpts","source":"devpts",)"
    R"("options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]},)"
    R"({"destination":"/sys","type":"sysfs","source":"sysfs","options":["ro"]}])";

std::string Process(const std::string& script, bool terminal) {
  return absl::StrCat(R"({"terminal":)", terminal ? "true" : "false",
                      R"(,"user":{"uid":0,"gid":0},"args":["/bin/sh","-c",")", script,
                      R"("],"env":["PATH=/bin","TERM=xterm"],"cwd":"/"})");
}

std::string Spec(const std::string& id, const std::string& script, const std::string& more,
                 bool terminal = false) {
  return absl::StrCat(
      R"({"ociVersion":"1.0.2","process":)", Process(script, terminal), R"(,"root":{"path":)",
      R"("/run/gcs/c/)", id, R"(/rootfs"},"hostname":"name-)", id.substr(0, 1), R"(",)", kMounts,
      R"(,"linux":{"resources":{"memory":{"limit":67108864},"pids":{"limit":64}},"namespaces":)",
      R"([{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}]})",
      more, "}");
}

// A VM with a layer at LUN 0 and an empty scratch at LUN 1.
class GuestContainersTest : public QemuFixture {
 protected:
  void SetUp() override {
    QemuFixture::SetUp();
    MakeLayer();
    MakeScratch("scratch");
    MakeScratch("scratch2");
  }

  // By Ferry's own writer, with more names in one folder than a block of it holds.
  void MakeLayer() {
    layers::TarMaker tar;
    for (const char* name : {"proc", "sys", "dev", "tmp", "etc"}) tar.Folder(name);
    std::string busybox;
    for (const auto& entry : fs::directory_iterator(FERRY_GUEST_CACHE)) {
      const std::string candidate = entry.path().string() + "/bin/busybox";
      if (entry.is_directory() && fs::exists(candidate)) busybox = candidate;
    }
    ASSERT_FALSE(busybox.empty()) << "no busybox in " << FERRY_GUEST_CACHE;
    std::ifstream in(busybox, std::ios::binary);
    const std::string program((std::istreambuf_iterator<char>(in)), {});
    tar.File("bin/busybox", program, 0755);
    for (const char* name : {"sh", "cat", "sleep", "stty", "hostname", "readlink", "ps"}) {
      tar.Symlink(absl::StrCat("bin/", name), "busybox");
    }
    for (int i = 0; i < kManyNames; ++i) {
      tar.File(absl::StrCat("many/a-rather-long-name-", i), absl::StrCat(i, "\n"));
    }
    const UniqueFd source = layers::MemoryFile(tar.Bytes());
    const UniqueFd image(
        ::open((folder_ + "/layer.erofs").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    layers::FileSource file(source.get(), 0, tar.Bytes().size());
    layers::Budget budget(layers::Limits(), image.get());
    const auto built = layers::BuildLayer(file, layers::Whiteouts::kLiteral, budget, image.get());
    ASSERT_TRUE(built.ok()) << built.status();
  }

  void MakeScratch(const std::string& name) {
    const std::string path = absl::StrCat(folder_, "/", name, ".raw");
    std::ofstream(path) << "";
    fs::resize_file(path, 64 << 20);
  }

  schema::ComputeSystem GuestDocument() {
    schema::ComputeSystem document = Document();
    auto& machine = document.virtual_machine;
    machine.chipset.linux_kernel_direct.emplace();
    machine.chipset.linux_kernel_direct->kernel_file_path = FERRY_GUEST_IMAGE "/vmlinuz";
    machine.chipset.linux_kernel_direct->init_rd_path = FERRY_GUEST_IMAGE "/initrd.img";
    machine.chipset.linux_kernel_direct->kernel_cmd_line =
        "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on no_timer_check "
        "cryptomgr.notests 8250.nr_uarts=1 i8042.noprobe=1 edd=off";
    auto& disks = machine.devices.scsi["0"].attachments;
    disks["0"].path = folder_ + "/layer.erofs";
    disks["0"].name = "layer";
    disks["0"].read_only = true;
    disks["1"].path = folder_ + "/scratch.raw";
    disks["1"].name = "scratch";
    for (auto& [lun, disk] : disks) disk.format = "raw";
    return document;
  }

  struct Guest {
    std::unique_ptr<QemuBackend> backend;
    std::unique_ptr<ComputeSystem> system;
    std::unique_ptr<ContainerHostClient> client;
  };

  Task<std::unique_ptr<Guest>> Boot() {
    auto guest = std::make_unique<Guest>();
    auto backend = co_await QemuBackend::Open(executor(), Config());
    EXPECT_TRUE(backend.ok()) << backend.status();
    if (!backend.ok()) co_return nullptr;
    guest->backend = *std::move(backend);
    const schema::ComputeSystem document = GuestDocument();
    const std::string id = kId;
    auto system = co_await guest->backend->Create(id, document);
    EXPECT_TRUE(system.ok()) << system.status();
    if (!system.ok()) co_return nullptr;
    guest->system = *std::move(system);
    guest->client = std::make_unique<ContainerHostClient>(guest->system->guest_transport());
    const schema::StartOptions options;
    const absl::Status started = co_await guest->system->Start(options, nullptr);
    EXPECT_TRUE(started.ok()) << started;
    if (!started.ok()) co_return nullptr;
    co_await NotePid(guest->system.get());
    co_await guest->client->Open();
    co_return guest;
  }

  // Mounts the layer, and a root of it and of the scratch at `lun` for container `id`.
  static Task<void> MakeRoot(ContainerHostClient* client, std::string id, uint32_t lun) {
    bridge::MappedVirtualDisk scratch;
    scratch.mount_path = "/run/scratch/" + id.substr(0, 8);
    scratch.lun = lun;
    scratch.ensure_filesystem = true;
    const std::string scratch_text = Encode(scratch);
    co_await client->Modify(bridge::kNullGuid, "Add", "MappedVirtualDisk", scratch_text);
    bridge::CombinedLayers layers;
    layers.container_root_path = absl::StrCat("/run/gcs/c/", id, "/rootfs");
    layers.layers.resize(1);
    layers.layers[0].path = "/run/layers/0";
    layers.scratch_path = scratch.mount_path;
    const std::string layers_text = Encode(layers);
    co_await client->Modify(bridge::kNullGuid, "Add", "CombinedLayers", layers_text);
  }

  static Task<void> MountLayer(ContainerHostClient* client) {
    bridge::MappedVirtualDisk layer;
    layer.mount_path = "/run/layers/0";
    layer.read_only = true;
    const std::string text = Encode(layer);
    co_await client->Modify(bridge::kNullGuid, "Add", "MappedVirtualDisk", text);
  }

  Task<void> Life();
  Task<void> Terminals(ContainerHostClient* client);
  Task<void> Pod();
  Task<void> Layers();
  static Task<void> MakeLayerOfScratch(ContainerHostClient* client);
};

Task<void> GuestContainersTest::Life() {
  const auto guest = co_await Boot();
  if (guest == nullptr) co_return;
  ContainerHostClient* client = guest->client.get();
  co_await MountLayer(client);
  co_await MakeRoot(client, kOne, 1);
  const std::string spec = Spec(kOne, "echo up $$; cat; echo over; exit 5", "");
  co_await client->Create(kOne, spec);
  EXPECT_EQ((co_await client->Properties(kOne)).state, ContainerState::kCreated);
  const auto init = co_await client->Execute(kOne, "", /*terminal=*/false);
  if (init->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(init->out.get(), "\n"), "up 1\n");

  // Every name of a large folder is found, wherever in it the kernel looks.
  const std::string look = Process(
      "n=0; while [ $n -lt 500 ]; do read x </many/a-rather-long-name-$n; "
      "[ $x = $n ] || echo $n; n=$((n + 1)); done; set -- /many/*; echo $#",
      false);
  const auto names = co_await client->Execute(kOne, look, /*terminal=*/false);
  if (names->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(names->out.get(), ""), absl::StrCat(kManyNames, "\n"));
  names->out->Close();
  EXPECT_EQ((co_await client->Wait(names->pid)).exit_code, 0u);

  // What an exec writes is on the scratch; the root is the layer's.
  const std::string write = Process("echo kept > /made; cat /made; kill -9 $$", false);
  const auto exec = co_await client->Execute(kOne, write, /*terminal=*/false);
  if (exec->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(exec->out.get(), ""), "kept\n");
  EXPECT_EQ((co_await client->Wait(exec->pid)).exit_signal, 9u);
  exec->out->Close();

  co_await Terminals(client);

  // One that ignores nothing ends by the signal that it is sent.
  const std::string sleep = Process("echo on; exec sleep 1000", false);
  const auto sleeper = co_await client->Execute(kOne, sleep, /*terminal=*/false);
  if (sleeper->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(sleeper->out.get(), "\n"), "on\n");
  const auto running = co_await client->Properties(kOne);
  EXPECT_EQ(running.state, ContainerState::kRunning);
  EXPECT_TRUE(running.metrics.has_value());
  if (!running.metrics.has_value()) co_return;
  EXPECT_GT(running.metrics->memory_usage, 0u);
  EXPECT_EQ(running.metrics->memory_limit, 64u << 20);
  EXPECT_GT(running.metrics->cpu_total, 0u);
  EXPECT_EQ(running.metrics->pids_limit, 64u);
  EXPECT_GE(running.metrics->pids_current, 3u);
  const std::string resources = R"({"Linux":{"memory":{"limit":50331648}}})";
  co_await client->Modify(kOne, "Update", "ContainerConstraints", resources);
  const auto constrained = co_await client->Properties(kOne);
  EXPECT_TRUE(constrained.metrics.has_value());
  if (!constrained.metrics.has_value()) co_return;
  EXPECT_EQ(constrained.metrics->memory_limit, 48u << 20);

  co_await client->Simple(bridge::kPauseContainer, kOne);
  EXPECT_EQ((co_await client->Properties(kOne)).state, ContainerState::kPaused);
  // It takes the signal when it runs again.
  EXPECT_EQ(co_await client->Signal(sleeper->pid, SIGTERM), bridge::kHresultOk);
  co_await client->Simple(bridge::kResumeContainer, kOne);
  EXPECT_EQ((co_await client->Wait(sleeper->pid)).exit_signal, 15u);

  EXPECT_TRUE((co_await init->in->Write("through")).ok());
  EXPECT_TRUE((co_await init->in->CloseWrite()).ok());
  EXPECT_EQ(co_await ReadUntil(init->out.get(), ""), "throughover\n");
  // Execs whose exit nobody has acknowledged do not keep the init from ending.
  EXPECT_EQ(co_await client->ExitType(kOne), "UnexpectedExit");
  EXPECT_EQ((co_await client->Wait(init->pid)).exit_code, 5u);
  EXPECT_EQ((co_await client->Properties(kOne)).state, ContainerState::kStopped);
  co_await client->Simple(bridge::kDeleteContainerState, kOne);
  const std::string layer = R"({"MountPath":"/run/layers/0"})";
  co_await client->Modify(bridge::kNullGuid, "Remove", "MappedVirtualDisk", layer);
  const std::string scratch = R"({"MountPath":"/run/scratch/11111111"})";
  co_await client->Modify(bridge::kNullGuid, "Remove", "MappedVirtualDisk", scratch);
  const std::string device = R"({"Controller":0,"Lun":1})";
  co_await client->Modify(bridge::kNullGuid, "Remove", "SCSIDevice", device);
  CO_EXPECT_OK(co_await guest->system->Terminate());
}

Task<void> GuestContainersTest::Terminals(ContainerHostClient* client) {
  const std::string shell = Process("stty -echo; stty size; read x; stty size; exit 3", true);
  const auto terminal = co_await client->Execute(kOne, shell, /*terminal=*/true);
  if (terminal->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(terminal->out.get(), "\n"), "24 80\r\n");
  bridge::ResizeConsoleRequest resize;
  resize.process_id = terminal->pid;
  resize.height = 50;
  resize.width = 132;
  co_await client->Call<bridge::SimpleResponse>(bridge::kResizeConsole, resize);
  EXPECT_TRUE((co_await terminal->in->Write("go\n")).ok());
  EXPECT_EQ(co_await ReadUntil(terminal->out.get(), ""), "50 132\r\n");
  terminal->out->Close();
  EXPECT_EQ((co_await client->Wait(terminal->pid)).exit_code, 3u);
}

Task<void> GuestContainersTest::Pod() {
  const auto guest = co_await Boot();
  if (guest == nullptr) co_return;
  ContainerHostClient* client = guest->client.get();
  co_await MountLayer(client);
  co_await MakeRoot(client, kOne, 1);
  // The second one's scratch comes while the VM runs.
  schema::ModifySettingRequest plug;
  plug.resource_path = "VirtualMachine/Devices/Scsi/0/Attachments/2";
  plug.request_type = "Add";
  plug.settings_json =
      absl::StrCat(R"({"Type":"VirtualDisk","Path":")", folder_,
                   R"(/scratch2.raw","Ferry":{"Name":"scratch2","Format":"raw"}})");
  const absl::Status plugged = co_await guest->system->Modify(plug);
  EXPECT_TRUE(plugged.ok()) << plugged;
  co_await MakeRoot(client, kTwo, 2);

  const std::string names =
      "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname; ";
  const std::string sandbox_spec =
      Spec(kOne, names + "read x; exit 0",
           R"(,"annotations":{"io.kubernetes.cri.container-type":"sandbox"})");
  co_await client->Create(kOne, sandbox_spec);
  const auto sandbox = co_await client->Execute(kOne, "", /*terminal=*/false);
  const std::string member_spec =
      Spec(kTwo, names + "exec sleep 1000",
           absl::StrCat(R"(,"annotations":{"io.kubernetes.cri.container-type":"container",)",
                        R"("io.kubernetes.cri.sandbox-id":")", kOne, R"("})"));
  co_await client->Create(kTwo, member_spec);
  const auto member = co_await client->Execute(kTwo, "", /*terminal=*/false);
  if (sandbox->out == nullptr || member->out == nullptr) co_return;
  const std::string theirs = co_await ReadUntil(sandbox->out.get(), "name-1\n");
  const std::string ours = co_await ReadUntil(member->out.get(), "name-1\n");
  // Network, ipc, uts and the host name are the pod's, the pids each one's own.
  const size_t shared = theirs.find("pid:");
  EXPECT_NE(shared, std::string::npos) << theirs;
  EXPECT_EQ(ours.substr(0, shared), theirs.substr(0, shared));
  EXPECT_NE(ours.substr(shared), theirs.substr(shared));

  // Killed from outside, although it is the init of its pid namespace.
  co_await client->Simple(bridge::kShutdownForced, kTwo);
  EXPECT_EQ(co_await client->ExitType(kTwo), "ForcedExit");
  EXPECT_EQ((co_await client->Wait(member->pid)).exit_signal, 9u);
  EXPECT_EQ((co_await client->Properties(kOne)).state, ContainerState::kRunning);
  co_await client->Simple(bridge::kDeleteContainerState, kTwo);
  EXPECT_TRUE((co_await sandbox->in->Write("end\n")).ok());
  EXPECT_EQ((co_await client->Wait(sandbox->pid)).exit_code, 0u);
  co_await client->Simple(bridge::kDeleteContainerState, kOne);
  CO_EXPECT_OK(co_await guest->system->Terminate());
}

// What a container leaves on its scratch is a layer of the next one.
Task<void> GuestContainersTest::MakeLayerOfScratch(ContainerHostClient* client) {
  co_await MakeRoot(client, kOne, 1);
  const std::string spec = Spec(kOne, "echo above > /made; read x; exit 5", "");
  co_await client->Create(kOne, spec);
  const auto init = co_await client->Execute(kOne, "", /*terminal=*/false);
  if (init->in == nullptr) co_return;
  const std::string exec = Process("exit 6", false);
  const std::vector<uint32_t> together = co_await client->ExecuteTogether(kOne, exec, 4);
  for (const uint32_t pid : together) EXPECT_EQ((co_await client->Wait(pid)).exit_code, 6u);
  // Its exit waits for a host that is away.
  client->Disconnect();
  CO_EXPECT_OK(co_await init->in->Write("end\n"));
  EXPECT_EQ(co_await ReadUntil(init->out.get(), ""), "");
  co_await client->Open();
  EXPECT_EQ(co_await client->ExitType(kOne), "UnexpectedExit");
  EXPECT_EQ((co_await client->Wait(init->pid)).exit_code, 5u);
  co_await client->Simple(bridge::kDeleteContainerState, kOne);
}

Task<void> GuestContainersTest::Layers() {
  const auto guest = co_await Boot();
  if (guest == nullptr) co_return;
  const auto log = Watch(guest->system.get());
  ContainerHostClient* client = guest->client.get();
  co_await MountLayer(client);
  const std::string limit = R"({"MemoryLimitInBytes":100663296})";
  co_await client->Modify(bridge::kNullGuid, "Update", "PodCgroupMemoryLimit", limit);
  EXPECT_EQ(co_await client->Shell("cat /sys/fs/cgroup/containers/memory.max"), "100663296\n");
  co_await MakeLayerOfScratch(client);

  const std::string layers =
      absl::StrCat(R"({"ContainerRootPath":"/run/gcs/c/)", kTwo, R"(/rootfs","Layers":[)",
                   R"({"Id":"above","Path":"/run/scratch/11111111/upper"},)",
                   R"({"Id":"below","Path":"/run/layers/0"}]})");
  co_await client->Modify(bridge::kNullGuid, "Add", "CombinedLayers", layers);
  const std::string spec =
      Spec(kTwo, "cat /made; echo no > /made || echo read-only; exec sleep 1000", "");
  co_await client->Create(kTwo, spec);
  // Deleted with the init that was never started; its layers went with the bundle.
  co_await client->Simple(bridge::kDeleteContainerState, kTwo);
  EXPECT_EQ(co_await client->ExitType(kTwo), "ForcedExit");
  EXPECT_EQ(co_await client->Shell("ls /run/gcs/c; grep -c overlay /proc/mounts"), "0\n");
  co_await client->Modify(bridge::kNullGuid, "Add", "CombinedLayers", layers);
  co_await client->Create(kTwo, spec);
  const auto init = co_await client->Execute(kTwo, "", /*terminal=*/false);
  if (init->out == nullptr) co_return;
  EXPECT_EQ(co_await ReadUntil(init->out.get(), "read-only\n"), "above\nread-only\n");

  // The VM ends although a container stands still.
  co_await client->Simple(bridge::kPauseContainer, kTwo);
  co_await client->Simple(bridge::kShutdownForced, bridge::kNullGuid);
  co_await log->Await(SystemEvent::Kind::kExited);
  CO_EXPECT_OK(co_await guest->system->Terminate());
}

TEST_F(GuestContainersTest, AContainerLivesOnALayerAndAScratch) { Run(Life()); }
TEST_F(GuestContainersTest, TwoContainersOfAPodShareNamespaces) { Run(Pod()); }
TEST_F(GuestContainersTest, ManyLayersManyExecsAndAHostThatWasAway) { Run(Layers()); }

}  // namespace
}  // namespace ferry::vm
