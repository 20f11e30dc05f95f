#include "vmmanager/state/unknown_fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>

#include <vector>

#include "bridge/runtime/str_cat.h"

namespace ferry::vm {

std::optional<UnknownField> FindUnknownCritical(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    const int number = unknown.field(i).number();
    if (number < kFirstOptionalField) {
      return UnknownField{message.GetDescriptor()->full_name(), number};
    }
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      if (auto found = FindUnknownCritical(reflection.GetMessage(message, field))) return found;
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      auto found = FindUnknownCritical(reflection.GetRepeatedMessage(message, field, i));
      if (found) return found;
    }
  }
  return std::nullopt;
}

absl::Status RefuseUnknownCritical(const google::protobuf::Message& message) {
  const std::optional<UnknownField> unknown = FindUnknownCritical(message);
  if (!unknown) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the saved state's ", unknown->message, " holds field ", unknown->number,
             ", which this ferryd does not know; use a newer ferryd here"));
}

}  // namespace ferry::vm
