#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "ferry/state/v1/container.pb.h"
#include "ferry/v1/container.pb.h"
#include "guestmanager/process.h"
#include "vmmanager/store/store.h"

// A container's record between the store, the API and the guest. No I/O.
namespace ferry::vm {

inline constexpr uint32_t kContainerRecordVersion = 1;

struct StoredContainer {
  state::v1::ContainerRecord record;
  v1::ContainerSpec spec;
};

// Takes the name from the specification, which goes into the record.
ContainerRow ToRow(const StoredContainer& container);
// DATA_LOSS if it cannot be read, or has what this release does not know.
absl::StatusOr<StoredContainer> FromRow(const ContainerRow& row);
absl::StatusOr<StoredContainer> FromRecord(const state::v1::ContainerRecord& record);
// With its specification in it.
state::v1::ContainerRecord ToRecord(const StoredContainer& container);

// What whoever asks sees of a stage. One that is being made is nobody's yet.
v1::ContainerState ToState(state::v1::ContainerStage stage);
std::string ContainerStateName(v1::ContainerState state);

state::v1::ContainerExit ToRecord(const guest::ExitStatus& status);
v1::ExitStatus ToProto(const state::v1::ContainerExit& exit);

}  // namespace ferry::vm
