#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/container.pb.h"

// What people say of a container on the command line, as the API wants it. No I/O.
namespace ferry::ctl {

// "NAME=value"; the value may be empty or hold more equals signs.
absl::StatusOr<std::pair<std::string, std::string>> ParseAssignment(absl::string_view text);

// "2", "0.5" or "1.25" CPUs, in thousandths.
absl::StatusOr<uint32_t> ParseCpus(absl::string_view text);

// As ParseSize(), with units in lower case as well: many know them so.
absl::StatusOr<uint64_t> ParseContainerSize(absl::string_view text);

// The limits that were given, as text.
struct LimitOptions {
  std::optional<std::string> memory, cpus;
  std::optional<uint32_t> pids;

  absl::StatusOr<v1::ContainerLimits> Parse() const;
};

// What `run` and `container create` were given.
struct RunOptions {
  std::string vm, name, image, working_directory, user, hostname, pod, scratch_folder;
  std::optional<std::string> entrypoint, scratch_size;
  std::vector<std::string> command, environment, labels, volumes, nics, ports;
  std::optional<std::string> network;
  LimitOptions limits;
  bool stays = false;
  bool interactive = false, terminal = false, detached = false, remove = false, read_only = false;
};

// The request without its id and the terminal's size. Where no VM is named and no pod, it asks for
// one of its own; a pod's VM is for the caller to fill in.
absl::StatusOr<v1::CreateContainerRequest> ToCreateRequest(const RunOptions& options);

// "HOSTDIR:DIR", with ":ro" or ":rw" behind it.
absl::StatusOr<v1::ContainerMount> ParseMount(absl::string_view text);

// The VM that is made for a container with these limits: it has room for the guest's own needs,
// too.
v1::VmSpec VmForLimits(const v1::ContainerLimits& limits);

// The words behind exec's options, where a VM may stand before the command.
struct ExecWords {
  std::string vm;
  std::vector<std::string> command;
};

// `marked`: a "--" stood before all words. With a container the VM may be left out; it is named if
// a "--" follows the first word.
ExecWords SplitExecWords(std::vector<std::string> words, bool in_container, bool marked);

}  // namespace ferry::ctl
