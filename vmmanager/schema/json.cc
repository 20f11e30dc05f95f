#include "vmmanager/schema/json.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <utility>

namespace ferry::schema {

namespace json = boost::json;

absl::StatusOr<json::object> ParseJsonObject(std::string_view text, std::string_view what) {
  if (text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(StrCat(what, " has ", text.size(), " bytes of JSON; at most ",
                                             kMaxJsonBytes, " are accepted"));
  }
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  json::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) {
    return absl::InvalidArgumentError(StrCat(what, " is not valid JSON: ", error.message()));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(StrCat(what, " must be a JSON object"));
  }
  return std::move(value.as_object());
}

json::value JsonNumber(double number) {
  constexpr double kExact = 9007199254740992;  // 2^53
  if (std::trunc(number) == number && std::abs(number) < kExact) {
    return static_cast<int64_t>(number);
  }
  return number;
}

std::string JsonReader::MemberPath(std::string_view name) const {
  return path_.empty() ? std::string(name) : StrCat(path_, ".", name);
}

void JsonReader::Fail(absl::Status status) { status_.Update(std::move(status)); }

void JsonReader::Fail(const char* name, const std::string& problem) {
  Fail(absl::InvalidArgumentError(StrCat(MemberPath(name), " ", problem)));
}

const json::value* JsonReader::Member(const char* name) {
  read_.insert(name);
  return object_.if_contains(name);
}

const json::object* JsonReader::ObjectMember(const char* name) {
  const json::value* value = Member(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) Fail(name, "must be an object");
  return value->if_object();
}

void JsonReader::Read(const char* name, std::string& out) {
  const json::value* value = Member(name);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(name, "must be a string");
  out.assign(value->as_string().data(), value->as_string().size());
}

void JsonReader::Read(const char* name, bool& out) {
  const json::value* value = Member(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return Fail(name, "must be true or false");
  out = value->as_bool();
}

void JsonReader::Read(const char* name, double& out) {
  const json::value* value = Member(name);
  if (value == nullptr) return;
  if (!value->is_number()) return Fail(name, "must be a number");
  out = value->to_number<double>();
  if (!std::isfinite(out)) Fail(name, "is too large for a number");
}

void JsonReader::Read(const char* name, std::vector<std::string>& out) {
  const json::value* value = Member(name);
  if (value == nullptr) return;
  if (!value->is_array()) return Fail(name, "must be an array of strings");
  out.clear();
  for (const json::value& item : value->as_array()) {
    if (!item.is_string()) return Fail(name, "must be an array of strings");
    out.emplace_back(item.as_string().data(), item.as_string().size());
  }
}

void JsonReader::Read(const char* name, std::map<std::string, std::string>& out) {
  const json::object* object = ObjectMember(name);
  if (object == nullptr) return;
  out.clear();
  for (const auto& member : *object) {
    if (!member.value().is_string()) return Fail(name, "must hold strings only");
    const json::string& text = member.value().as_string();
    out.emplace(std::string(member.key()), std::string(text.data(), text.size()));
  }
}

std::optional<int64_t> JsonReader::ToSigned(const json::value& value) {
  if (value.is_int64()) return value.as_int64();
  return std::nullopt;
}

std::optional<uint64_t> JsonReader::ToUnsigned(const json::value& value) {
  if (value.is_uint64()) return value.as_uint64();
  if (value.is_int64() && value.as_int64() >= 0) return static_cast<uint64_t>(value.as_int64());
  return std::nullopt;
}

void JsonReader::FailNumber(const char* name, const json::value& value) {
  if (!value.is_number()) return Fail(name, "must be a whole number");
  Fail(name, StrCat("is ", json::serialize(value), ", which is not a whole number in its range"));
}

absl::Status JsonReader::Finish() {
  for (const auto& member : object_) {
    std::string name(member.key());
    if (!read_.contains(name)) {
      Fail(name.c_str(), "is not known here; remove it, or use a newer Ferry");
    }
  }
  return status_;
}

}  // namespace ferry::schema
