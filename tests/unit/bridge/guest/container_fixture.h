#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/container/fake_container_runtime.h"
#include "bridge/container/fake_volumes.h"
#include "bridge/guest/orphan_reaper.h"
#include "bridge/protocol/run_failure.h"
#include "tests/unit/bridge/guest/guest_server_fixture.h"

namespace ferry::bridge {

inline const std::string kOne(64, '1');
inline const std::string kTwo(64, '2');
inline constexpr char kProcess[] = R"({"args":["sh"],"cwd":"/"})";

inline std::string Calls(const std::vector<std::string>& calls) {
  std::string all;
  for (const std::string& call : calls) all += call.substr(0, call.find(" {")) + ";";
  return all;
}

// A server with containers that are plain children of the test.
class ContainerRequestsTest : public GuestServerTest {
 protected:
  ContainerRequestsTest() : runtime_(io_.get_executor()) {
    char name[] = "/tmp/ferry-cgroups-XXXXXX";
    cgroups_ = mkdtemp(name);
    GuestServer::Options options;
    options.shutdown_grace = milliseconds(20'000);
    ContainerParts& parts = options.containers.emplace();
    parts.runtime = &runtime_;
    parts.volumes = &volumes_;
    parts.cgroup_root = cgroups_;
    parts.collect_orphans = [this] { Reap(); };
    server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  }

  ~ContainerRequestsTest() override {
    server_.reset();
    for (const pid_t child : ListChildren()) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    std::filesystem::remove_all(cgroups_);
  }

  // What the reaper does when a signal tells it that a child has ended.
  void Reap() {
    CollectOrphans([this](uint32_t pid) { return server_ != nullptr && server_->Owns(pid); });
  }

  FakeContainerRuntime runtime_;
  FakeVolumes volumes_;
  std::string cgroups_;
};

inline constexpr char kActivity[] = "01234567-89ab-cdef-0123-456789abcdef";

inline bool IsZombie(pid_t pid) {
  siginfo_t info = {};
  return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid;
}

// Returns when some child has ended, and leaves it as it is.
inline void AwaitZombie() {
  siginfo_t info = {};
  waitid(P_ALL, 0, &info, WEXITED | WNOWAIT);
}

inline size_t OpenFiles() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

// One host that speaks of containers.
class ContainerClient {
 public:
  explicit ContainerClient(std::unique_ptr<Host> host) : host_(std::move(host)) {}

  static Task<std::unique_ptr<ContainerClient>> Connect(FakeGuestTransport* transport) {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    co_return std::make_unique<ContainerClient>(std::move(host));
  }

  Task<uint32_t> Create(std::string id, std::string more = "", bool terminal = false) {
    bundle = bundle.empty() ? "/run/gcs/c/" + id.substr(0, 1) : bundle;
    ContainerConfig config;
    config.oci_bundle_path = std::exchange(bundle, "");
    config.oci_specification = absl::StrCat(
        R"({"ociVersion":"1.0.2","process":{"args":["sh"],"terminal":)",
        terminal ? "true" : "false", R"(},"root":{"path":"/run/gcs/c/rootfs"})", more, "}");
    CreateRequest request;
    request.container_id = id;
    request.activity_id = kActivity;
    request.container_config = Encode(config);
    co_return co_await Send(request);
  }

  Task<uint32_t> Send(CreateRequest request) {
    const auto answer = co_await host_->Call<SimpleResponse>(kCreate, 1, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<ExecuteProcessResponse> Execute(std::string id, std::string process,
                                       StdioRelaySettings stdio = StdioRelaySettings()) {
    ExecuteProcessRequest request;
    request.container_id = id;
    request.parameters.oci_process = process;
    request.stdio = stdio;
    co_return co_await host_->Call<ExecuteProcessResponse>(kExecuteProcess, next_call_++, request);
  }

  // Has the init run, under that message id and with that port for its output.
  static ExecuteProcessRequest StartRequest(std::string id, uint32_t port) {
    ExecuteProcessRequest request;
    request.container_id = id;
    request.stdio.std_out = port;
    request.stdio.resumable = true;
    return request;
  }
  Task<ExecuteProcessResponse> Start(std::string id, int64_t call, uint32_t port = kOut) {
    const ExecuteProcessRequest request = StartRequest(id, port);
    co_return co_await host_->Call<ExecuteProcessResponse>(kExecuteProcess, call, request);
  }

  Task<uint32_t> Simple(uint32_t type, std::string id) {
    SimpleRequest request;
    request.container_id = id;
    const auto answer = co_await host_->Call<SimpleResponse>(type, 3, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<uint32_t> Modify(std::string id, std::string type, std::string resource,
                        std::string settings) {
    ModifySettingsRequest request;
    request.container_id = id;
    request.request_type = type;
    request.resource_type = resource;
    request.settings = settings;
    const auto answer = co_await host_->Call<SimpleResponse>(kModifySettings, 4, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<std::string> Properties(std::string id, std::string type) {
    GetPropertiesRequest request;
    request.container_id = id;
    request.query = absl::StrCat(R"({"PropertyTypes":[")", type, R"("]})");
    const auto answer = co_await host_->Call<GetPropertiesResponse>(kGetProperties, 5, request);
    if (answer.result != 0) co_return absl::StrCat("0x", absl::Hex(HResult(answer.result)));
    co_return answer.properties;
  }

  Task<uint32_t> Signal(uint32_t pid, uint32_t signal) {
    SignalProcessRequest request;
    request.process_id = pid;
    request.signal = signal;
    const auto answer = co_await host_->Call<SimpleResponse>(kSignalProcess, 6, request);
    co_return HResult(answer.result);
  }

  // The notification that a container has exited, which comes next.
  Task<ContainerNotification> Notification() {
    const Frame frame = co_await host_->Receive();
    EXPECT_EQ(frame.type, kContainerNotification);
    const auto notification = Decode<ContainerNotification>(frame.payload);
    EXPECT_TRUE(notification.ok()) << notification.status();
    co_return notification.ok() ? *notification : ContainerNotification();
  }

  Host& host() { return *host_; }
  std::string error;   // what the last answer said
  std::string bundle;  // of the next Create(); empty: one of its own

 private:
  std::unique_ptr<Host> host_;
  int64_t next_call_ = 100;
};

}  // namespace ferry::bridge
