#include "bridge/container/fake_container_runtime.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

absl::StatusOr<SpawnedProcess> RunScript(const std::string& script, const ContainerStdio& stdio) {
  SpawnSpec spec;
  spec.command = {"/bin/sh", "-c", script};
  spec.environment["PATH"] = "/usr/bin:/bin";
  spec.terminal = stdio.terminal;
  spec.rows = stdio.rows;
  spec.columns = stdio.columns;
  spec.want_stdin = spec.want_stdout = true;
  spec.want_stderr = !stdio.terminal;
  return SpawnProcess(spec);
}

}  // namespace

Task<absl::Status> FakeContainerRuntime::Note(const char* verb, std::string id,
                                              std::string argument) {
  calls.push_back(absl::StrCat(verb, " ", id.substr(0, 1), argument.empty() ? "" : " ", argument));
  co_await go_.Wait();
  const auto failure = failures.find(verb);
  if (failure == failures.end()) co_return absl::OkStatus();
  const absl::Status status = failure->second;
  failures.erase(failure);
  co_return status;
}

Task<absl::StatusOr<SpawnedProcess>> FakeContainerRuntime::Make(std::string script,
                                                                ContainerStdio stdio) {
  absl::StatusOr<SpawnedProcess> process = RunScript(script, stdio);
  co_await made_.Wait();
  co_return process;
}

Task<absl::StatusOr<SpawnedProcess>> FakeContainerRuntime::Create(std::string id,
                                                                  std::string bundle,
                                                                  ContainerStdio stdio) {
  CO_RETURN_IF_ERROR(co_await Note("create", id, bundle));
  co_return co_await Make(init_script, stdio);
}

Task<absl::Status> FakeContainerRuntime::Start(std::string id) { return Note("start", id, ""); }

Task<absl::StatusOr<SpawnedProcess>> FakeContainerRuntime::Exec(std::string id, std::string process,
                                                                ContainerStdio stdio) {
  CO_RETURN_IF_ERROR(co_await Note("exec", id, process));
  co_return co_await Make(exec_script, stdio);
}

Task<absl::Status> FakeContainerRuntime::Pause(std::string id) { return Note("pause", id, ""); }
Task<absl::Status> FakeContainerRuntime::Resume(std::string id) { return Note("resume", id, ""); }
Task<absl::Status> FakeContainerRuntime::Update(std::string id, std::string resources) {
  return Note("update", id, resources);
}
Task<absl::Status> FakeContainerRuntime::Delete(std::string id) { return Note("delete", id, ""); }

}  // namespace ferry::bridge
