#include "bridge/protocol/json_fields.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

// A whole number, or nullopt; doubles are not numbers to this protocol.
std::optional<int64_t> WholeNumber(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_uint64() && value.get_uint64() <= std::numeric_limits<int64_t>::max()) {
    return static_cast<int64_t>(value.get_uint64());
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<json::object> ParseObject(std::string_view text) {
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  boost::system::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) return absl::InvalidArgumentError(absl::StrCat("not JSON: ", error.message()));
  if (!value.is_object()) return absl::InvalidArgumentError("not a JSON object");
  return std::move(value.get_object());
}

json::value Embedded(const std::string& text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  return error ? json::value(text) : value;
}

const json::value* FieldReader::Find(const char* member) const {
  const json::value* value = object_.if_contains(member);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string FieldReader::Path(const char* member) const {
  return name_.empty() ? member : absl::StrCat(name_, ".", member);
}

void FieldReader::Complain(const char* member, const std::string& what) const {
  if (status_->ok()) *status_ = absl::InvalidArgumentError(absl::StrCat(Path(member), " ", what));
}

void FieldReader::Required(const char* member) const {
  if (!Has(member)) Complain(member, "is missing");
}

void FieldReader::Text(const char* member, std::string* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (!value->is_string()) return Complain(member, "must be a string");
  out->assign(value->get_string().data(), value->get_string().size());
}

void FieldReader::Bool(const char* member, bool* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (!value->is_bool()) return Complain(member, "must be true or false");
  *out = value->get_bool();
}

void FieldReader::U32(const char* member, uint32_t* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  std::optional<int64_t> number = WholeNumber(*value);
  if (!number || *number < 0 || *number > std::numeric_limits<uint32_t>::max()) {
    return Complain(member, "must be a whole number from 0 to 4294967295");
  }
  *out = static_cast<uint32_t>(*number);
}

void FieldReader::I32(const char* member, int32_t* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  std::optional<int64_t> number = WholeNumber(*value);
  if (!number || *number < std::numeric_limits<int32_t>::min() ||
      *number > std::numeric_limits<int32_t>::max()) {
    return Complain(member, "must be a whole number from -2147483648 to 2147483647");
  }
  *out = static_cast<int32_t>(*number);
}

void FieldReader::I64(const char* member, int64_t* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number) return Complain(member, "must be a whole number of 64 bits");
  *out = *number;
}

void FieldReader::U64(const char* member, uint64_t* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (value->is_uint64()) {
    *out = value->get_uint64();
  } else if (value->is_int64() && value->get_int64() >= 0) {
    *out = static_cast<uint64_t>(value->get_int64());
  } else {
    Complain(member, "must be a whole number from 0 to 18446744073709551615");
  }
}

void FieldReader::Raw(const char* member, std::string* out) const {
  const json::value* value = Find(member);
  if (value != nullptr) *out = json::serialize(*value);
}

void FieldReader::TextList(const char* member, std::vector<std::string>* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (!value->is_array()) return Complain(member, "must be a list");
  if (value->get_array().size() > kMaxListSize) return Complain(member, "has too many entries");
  for (const json::value& entry : value->get_array()) {
    if (!entry.is_string()) return Complain(member, "must hold strings");
    out->emplace_back(entry.get_string().data(), entry.get_string().size());
  }
}

void FieldReader::U32List(const char* member, std::initializer_list<uint32_t*> out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (!value->is_array()) return Complain(member, "must be a list");
  if (value->get_array().size() != out.size()) {
    return Complain(member, absl::StrCat("must hold ", out.size(), " numbers"));
  }
  size_t index = 0;
  for (uint32_t* place : out) {
    std::optional<int64_t> number = WholeNumber(value->get_array()[index++]);
    if (!number || *number < 0 || *number > std::numeric_limits<uint32_t>::max()) {
      return Complain(member, "must hold whole numbers from 0 to 4294967295");
    }
    *place = static_cast<uint32_t>(*number);
  }
}

void FieldReader::TextMap(const char* member, std::map<std::string, std::string>* out) const {
  const json::value* value = Find(member);
  if (value == nullptr) return;
  if (!value->is_object()) return Complain(member, "must be an object");
  if (value->get_object().size() > kMaxListSize) return Complain(member, "has too many entries");
  for (const json::key_value_pair& entry : value->get_object()) {
    if (!entry.value().is_string()) return Complain(member, "must hold strings");
    const json::string& text = entry.value().get_string();
    (*out)[std::string(entry.key())] = std::string(text.data(), text.size());
  }
}

}  // namespace ferry::bridge
