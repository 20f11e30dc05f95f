#include "vmmanager/containers/container_record.h"

#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "vmmanager/state/unknown_fields.h"

namespace ferry::vm {

using state::v1::ContainerStage;

state::v1::ContainerRecord ToRecord(const StoredContainer& container) {
  state::v1::ContainerRecord record = container.record;
  record.set_schema_version(kContainerRecordVersion);
  container.spec.SerializeToString(record.mutable_spec());
  return record;
}

absl::StatusOr<StoredContainer> FromRecord(const state::v1::ContainerRecord& record) {
  return FromRow({record.container_id(), record.vm_id(), "", record.SerializeAsString()});
}

ContainerRow ToRow(const StoredContainer& container) {
  const state::v1::ContainerRecord record = ToRecord(container);
  return {record.container_id(), record.vm_id(), container.spec.name(), record.SerializeAsString()};
}

absl::StatusOr<StoredContainer> FromRow(const ContainerRow& row) {
  StoredContainer container;
  state::v1::ContainerRecord& record = container.record;
  const bool whole = record.ParseFromString(row.record) &&
                     container.spec.ParseFromString(record.spec()) &&
                     record.container_id() == row.id && bridge::IsContainerId(row.id) &&
                     record.vm_id() == row.vm_id && !row.vm_id.empty();
  if (whole && record.schema_version() == kContainerRecordVersion &&
      RefuseUnknownCritical(record).ok()) {
    return container;
  }
  return absl::DataLossError(
      absl::StrCat("the record of container ", row.id, " is damaged, or of a newer ferryd"));
}

v1::ContainerState ToState(ContainerStage stage) {
  switch (stage) {
    case ContainerStage::CONTAINER_STAGE_MAKING:
    case ContainerStage::CONTAINER_STAGE_CREATED:
      return v1::CONTAINER_STATE_CREATED;
    case ContainerStage::CONTAINER_STAGE_RUNNING:
      return v1::CONTAINER_STATE_RUNNING;
    case ContainerStage::CONTAINER_STAGE_PAUSED:
      return v1::CONTAINER_STATE_PAUSED;
    case ContainerStage::CONTAINER_STAGE_STOPPED:
    case ContainerStage::CONTAINER_STAGE_REMOVING:
      return v1::CONTAINER_STATE_STOPPED;
    default:
      return v1::CONTAINER_STATE_UNSPECIFIED;
  }
}

std::string ContainerStateName(v1::ContainerState state) {
  return v1::ContainerState_Name(state).substr(sizeof("CONTAINER_STATE_") - 1);
}

state::v1::ContainerExit ToRecord(const guest::ExitStatus& status) {
  state::v1::ContainerExit exit;
  if (status.kind == guest::ExitStatus::Kind::kCode) exit.set_code(status.value);
  if (status.kind == guest::ExitStatus::Kind::kSignal) exit.set_signal(status.value);
  return exit;
}

v1::ExitStatus ToProto(const state::v1::ContainerExit& exit) {
  v1::ExitStatus status;
  status.set_unknown(true);
  if (exit.has_code()) status.set_code(exit.code());
  if (exit.has_signal()) status.set_signal(exit.signal());
  return status;
}

}  // namespace ferry::vm
