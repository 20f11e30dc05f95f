#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Reading documents that others wrote. Absent and null members read as empty ones; those of a wrong
// type are INVALID_ARGUMENT with their name.
namespace ferry::layers {

// The object that is all of `text`; `what` is the document's name in errors.
absl::StatusOr<boost::json::object> ParseObject(absl::string_view text, absl::string_view what);
absl::StatusOr<boost::json::array> ParseArray(absl::string_view text, absl::string_view what);

absl::StatusOr<std::string> StringAt(const boost::json::object& object, absl::string_view name);
absl::StatusOr<uint64_t> NumberAt(const boost::json::object& object, absl::string_view name);
absl::StatusOr<std::vector<std::string>> StringsAt(const boost::json::object& object,
                                                   absl::string_view name);
absl::StatusOr<std::map<std::string, std::string>> StringMapAt(const boost::json::object& object,
                                                               absl::string_view name);
absl::StatusOr<boost::json::object> ObjectAt(const boost::json::object& object,
                                             absl::string_view name);
absl::StatusOr<std::vector<boost::json::object>> ObjectsAt(const boost::json::object& object,
                                                           absl::string_view name);

}  // namespace ferry::layers
