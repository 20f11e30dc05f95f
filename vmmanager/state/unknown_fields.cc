#include "vmmanager/state/unknown_fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>

#include <vector>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {

absl::Status RefuseUnknownCritical(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (unknown.field(i).number() >= kFirstOptionalField) continue;
    return absl::FailedPreconditionError(StrCat(
        "the saved state's ", message.GetDescriptor()->full_name(), " holds field ",
        unknown.field(i).number(), ", which this ferryd does not know; use a newer ferryd here"));
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(RefuseUnknownCritical(reflection.GetMessage(message, field)));
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      RETURN_IF_ERROR(RefuseUnknownCritical(reflection.GetRepeatedMessage(message, field, i)));
    }
  }
  return absl::OkStatus();
}

}  // namespace ferry::vm
