#include "vmmanager/layers/json_reader.h"

#include <boost/json/parse.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::layers {
namespace {

namespace json = boost::json;

absl::Status Wrong(absl::string_view name, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is no ", wanted));
}

// nullptr if it is absent or null.
const json::value* Member(const json::object& object, absl::string_view name) {
  const json::value* value = object.if_contains(json::string_view(name.data(), name.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

absl::StatusOr<json::value> Parse(absl::string_view text, absl::string_view what) {
  json::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error)
    return absl::InvalidArgumentError(absl::StrCat(what, " is no JSON: ", error.message()));
  return value;
}

absl::StatusOr<std::string> ToString(const json::value& value, absl::string_view name) {
  if (!value.is_string()) return Wrong(name, "text");
  const json::string& text = value.get_string();
  // It will be an argument, a variable or a name, and none of these can hold one.
  if (text.find('\0') != json::string::npos) return Wrong(name, "text without NUL");
  return std::string(text.data(), text.size());
}

}  // namespace

absl::StatusOr<json::object> ParseObject(absl::string_view text, absl::string_view what) {
  ASSIGN_OR_RETURN(json::value value, Parse(text, what));
  if (!value.is_object()) return Wrong(what, "JSON object");
  return std::move(value.get_object());
}

absl::StatusOr<json::array> ParseArray(absl::string_view text, absl::string_view what) {
  ASSIGN_OR_RETURN(json::value value, Parse(text, what));
  if (!value.is_array()) return Wrong(what, "JSON array");
  return std::move(value.get_array());
}

absl::StatusOr<std::string> StringAt(const json::object& object, absl::string_view name) {
  const json::value* value = Member(object, name);
  if (value == nullptr) return std::string();
  return ToString(*value, name);
}

absl::StatusOr<uint64_t> NumberAt(const json::object& object, absl::string_view name) {
  const json::value* value = Member(object, name);
  if (value == nullptr) return 0;
  if (value->is_uint64()) return value->get_uint64();
  if (value->is_int64() && value->get_int64() >= 0) {
    return static_cast<uint64_t>(value->get_int64());
  }
  return Wrong(name, "whole number");
}

absl::StatusOr<std::vector<std::string>> StringsAt(const json::object& object,
                                                   absl::string_view name) {
  std::vector<std::string> strings;
  const json::value* value = Member(object, name);
  if (value == nullptr) return strings;
  if (!value->is_array()) return Wrong(name, "list of texts");
  for (const json::value& item : value->get_array()) {
    ASSIGN_OR_RETURN(std::string text, ToString(item, name));
    strings.push_back(std::move(text));
  }
  return strings;
}

absl::StatusOr<std::map<std::string, std::string>> StringMapAt(const json::object& object,
                                                               absl::string_view name) {
  std::map<std::string, std::string> strings;
  const json::value* value = Member(object, name);
  if (value == nullptr) return strings;
  if (!value->is_object()) return Wrong(name, "object of texts");
  for (const auto& item : value->get_object()) {
    ASSIGN_OR_RETURN(std::string text, ToString(item.value(), name));
    strings[std::string(item.key())] = std::move(text);
  }
  return strings;
}

absl::StatusOr<json::object> ObjectAt(const json::object& object, absl::string_view name) {
  const json::value* value = Member(object, name);
  if (value == nullptr) return json::object();
  if (!value->is_object()) return Wrong(name, "object");
  return value->get_object();
}

absl::StatusOr<std::vector<json::object>> ObjectsAt(const json::object& object,
                                                    absl::string_view name) {
  std::vector<json::object> objects;
  const json::value* value = Member(object, name);
  if (value == nullptr) return objects;
  if (!value->is_array()) return Wrong(name, "list of objects");
  for (const json::value& item : value->get_array()) {
    if (!item.is_object()) return Wrong(name, "list of objects");
    objects.push_back(item.get_object());
  }
  return objects;
}

}  // namespace ferry::layers
