#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/str_cat.h"

// Strict, bounded JSON for what decides which machine runs. Errors are INVALID_ARGUMENT and name
// the member's path, e.g. "VirtualMachine.ComputeTopology.Memory.SizeInMB".
namespace ferry::schema {

inline constexpr size_t kMaxJsonBytes = 1024 * 1024;
inline constexpr size_t kMaxJsonDepth = 32;

// Parses `text`, which must be one object. `what` names it in errors.
absl::StatusOr<boost::json::object> ParseJsonObject(std::string_view text, std::string_view what);

// Writes doubles that are whole numbers without an exponent, as other HCS clients do.
boost::json::value JsonNumber(double number);

// Reads the members of one object, each at most once. Reading goes on after an error; the first one
// is kept and returned by Finish(), which also refuses members that nobody asked for.
class JsonReader {
 public:
  JsonReader(const boost::json::object& object, std::string path)
      : object_(object), path_(std::move(path)) {}

  void Read(const char* name, std::string& out);
  void Read(const char* name, bool& out);
  void Read(const char* name, double& out);
  void Read(const char* name, std::vector<std::string>& out);
  void Read(const char* name, std::map<std::string, std::string>& out);

  template <typename T>
  requires std::is_integral_v<T>
  void Read(const char* name, T& out) {
    if constexpr (std::is_signed_v<T>) {
      ReadSigned(name, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(),
                 [&out](int64_t number) { out = static_cast<T>(number); });
    } else {
      ReadUnsigned(name, std::numeric_limits<T>::max(),
                   [&out](uint64_t number) { out = static_cast<T>(number); });
    }
  }

  template <typename T>
  void Read(const char* name, std::optional<T>& out) {
    if (object_.if_contains(name) == nullptr) return;
    T value{};
    Read(name, value);
    out = std::move(value);
  }

  // Calls read(JsonReader&) for the member if it is there. True if it was.
  template <typename F>
  bool Object(const char* name, F read) {
    const boost::json::object* child = ObjectMember(name);
    if (child == nullptr) return false;
    JsonReader reader(*child, MemberPath(name));
    read(reader);
    Fail(reader.Finish());
    return true;
  }

  // Calls read(key, JsonReader&) for every member of this object, in order of the text.
  template <typename F>
  void EachObject(F read) {
    for (const auto& member : object_) {
      std::string key(member.key());
      Object(key.c_str(), [&](JsonReader& reader) { read(key, reader); });
    }
  }

  // Reads an enum from its text by `parse`, which returns an optional.
  template <typename T, typename F>
  void ReadEnum(const char* name, std::optional<T>& out, F parse) {
    if (object_.if_contains(name) == nullptr) return;
    std::string text;
    Read(name, text);
    out = parse(text);
    if (!out) Fail(name, StrCat("is \"", text, "\", which is not one of its values"));
  }

  void Fail(const char* name, const std::string& problem);
  void Fail(absl::Status status);
  std::string MemberPath(std::string_view name) const;

  absl::Status Finish();

 private:
  const boost::json::value* Member(const char* name);
  const boost::json::object* ObjectMember(const char* name);

  template <typename F>
  void ReadSigned(const char* name, int64_t min, int64_t max, F store) {
    const boost::json::value* value = Member(name);
    if (value == nullptr) return;
    std::optional<int64_t> number = ToSigned(*value);
    if (!number || *number < min || *number > max) return FailNumber(name, *value);
    store(*number);
  }
  template <typename F>
  void ReadUnsigned(const char* name, uint64_t max, F store) {
    const boost::json::value* value = Member(name);
    if (value == nullptr) return;
    std::optional<uint64_t> number = ToUnsigned(*value);
    if (!number || *number > max) return FailNumber(name, *value);
    store(*number);
  }
  static std::optional<int64_t> ToSigned(const boost::json::value& value);
  static std::optional<uint64_t> ToUnsigned(const boost::json::value& value);
  void FailNumber(const char* name, const boost::json::value& value);

  const boost::json::object& object_;
  std::string path_;
  std::set<std::string, std::less<>> read_;
  absl::Status status_;
};

// Adds `name` unless the value is the one that an absent member stands for.
template <typename T>
void PutUnlessDefault(boost::json::object& object, const char* name, const T& value) {
  if (value != T{}) object[name] = value;
}

template <typename T>
void PutIfSet(boost::json::object& object, const char* name, const std::optional<T>& value) {
  if (value) object[name] = *value;
}

}  // namespace ferry::schema
