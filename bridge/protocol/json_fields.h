#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Helpers of the messages; this header pulls in Boost.JSON.
namespace ferry::bridge {

// Nesting and lengths beyond these are refused; no honest message comes near.
inline constexpr size_t kMaxJsonDepth = 16;
inline constexpr size_t kMaxListSize = 4096;

absl::StatusOr<boost::json::object> ParseObject(std::string_view text);

// Texts that are JSON inside JSON: kept as they are if they parse, else as a string, so that a bad
// one is seen (and refused) by whoever reads it.
boost::json::value Embedded(const std::string& text);

// Reads members of one object into variables and remembers the first complaint. Missing members and
// null leave the variable as it is.
class FieldReader {
 public:
  // `name` is the object's own path for messages; empty at the top.
  FieldReader(const boost::json::object& object, std::string name, absl::Status* status)
      : object_(object), name_(std::move(name)), status_(status) {}

  void Text(const char* member, std::string* out) const;
  void Bool(const char* member, bool* out) const;
  void U32(const char* member, uint32_t* out) const;
  void I32(const char* member, int32_t* out) const;
  void I64(const char* member, int64_t* out) const;
  void U64(const char* member, uint64_t* out) const;
  // Any JSON value, kept as its text.
  void Raw(const char* member, std::string* out) const;
  void TextList(const char* member, std::vector<std::string>* out) const;
  void TextMap(const char* member, std::map<std::string, std::string>* out) const;

  // A list with exactly as many numbers as `out` has places.
  void U32List(const char* member, std::initializer_list<uint32_t*> out) const;

  bool Has(const char* member) const { return Find(member) != nullptr; }
  void Required(const char* member) const;

  // Calls `read(FieldReader)` for a member object, if there is one.
  template <typename Read>
  void Object(const char* member, Read read) const {
    const boost::json::value* value = Find(member);
    if (value == nullptr) return;
    if (!value->is_object()) return Complain(member, "must be an object");
    read(FieldReader(value->get_object(), Path(member), status_));
  }

  // Calls `read(FieldReader)` for each object in a member list, if there is one.
  template <typename Read>
  void ObjectList(const char* member, Read read) const {
    const boost::json::value* value = Find(member);
    if (value == nullptr) return;
    if (!value->is_array()) return Complain(member, "must be a list");
    if (value->get_array().size() > kMaxListSize) return Complain(member, "has too many entries");
    for (const boost::json::value& entry : value->get_array()) {
      if (!entry.is_object()) return Complain(member, "must hold objects");
      read(FieldReader(entry.get_object(), Path(member), status_));
    }
  }

  void Complain(const char* member, const std::string& what) const;

 private:
  const boost::json::value* Find(const char* member) const;
  std::string Path(const char* member) const;

  const boost::json::object& object_;
  std::string name_;
  absl::Status* status_;
};

}  // namespace ferry::bridge
