#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/async.h"
#include "guestmanager/guest_connection.h"

namespace ferry::guest {

// A container that is to be made of what lies in the guest already.
struct NewContainer {
  std::string id;                 // 64 hexadecimal digits
  std::string bundle_path;        // in the guest, for this container alone
  std::string oci_specification;  // JSON text
};

// What the agent is asked about containers, and about the disks and layers that they consist of.
// Processes in them are the Guest's, as all others. Thread: the executor's only.
//
// What an agent without containers is asked is UNIMPLEMENTED. A container that it does not know is
// NOT_FOUND, one that it knows already ALREADY_EXISTS, and a state that does not allow something
// FAILED_PRECONDITION. UNAVAILABLE if the link is lost: then it may have been done, or not.
class GuestContainers {
 public:
  explicit GuestContainers(std::shared_ptr<GuestConnection> connection)
      : connection_(std::move(connection)) {}

  // Its init waits for Guest::StartContainer.
  Task<absl::Status> Create(NewContainer container);
  Task<absl::Status> Pause(std::string id);
  Task<absl::Status> Resume(std::string id);
  // FAILED_PRECONDITION while its init runs; one that was not started ends.
  Task<absl::Status> Delete(std::string id);
  // `linux_resources` is JSON text, OCI's LinuxResources.
  Task<absl::Status> Update(std::string id, std::string linux_resources);
  // Of the types "State", "Statistics" and "ProcessList", those that were asked for.
  Task<absl::StatusOr<bridge::ContainerProperties>> Properties(std::string id,
                                                               std::vector<std::string> types);

  // Mounts a disk of the VM in the guest, and the opposite.
  Task<absl::Status> AddDisk(bridge::MappedVirtualDisk disk);
  Task<absl::Status> RemoveDisk(bridge::MappedVirtualDisk disk);
  // It is larger now; its filesystem takes all of it. INVALID_ARGUMENT if the agent is too old.
  Task<absl::Status> GrowDisk(bridge::MappedVirtualDisk disk);
  // The guest lets go of the device, which may be taken out of the VM then.
  Task<absl::Status> EjectDisk(bridge::ScsiDevice disk);
  // Mounts a folder that the VM shares with its host.
  Task<absl::Status> AddDirectory(bridge::MappedDirectory directory);
  Task<absl::Status> CombineLayers(bridge::CombinedLayers layers);
  Task<absl::Status> SeparateLayers(bridge::CombinedLayers layers);

  // Whether the agent has containers at all, as far as it has said.
  absl::Status CheckSupported() const;

 private:
  // The answer's text, if the agent did what it was asked for.
  Task<absl::StatusOr<std::string>> Ask(uint32_t type, std::string request, std::string what);
  Task<absl::Status> AskAbout(std::string id, uint32_t type, std::string what);
  Task<absl::Status> Modify(std::string container_id, std::string request_type,
                            std::string resource_type, std::string settings, std::string what);

  const std::shared_ptr<GuestConnection> connection_;
};

// What an agent's refusal means; `what` names what it was asked for.
absl::Status FromAgent(const bridge::ResponseBase& response, const std::string& what);

}  // namespace ferry::guest
