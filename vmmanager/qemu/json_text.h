#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>

namespace ferry::vm {

// QEMU's texts; empty where there is none.
inline std::string TextOf(const boost::json::value* value) {
  const boost::json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}
inline std::string TextAt(const boost::json::object& object, const char* key) {
  return TextOf(object.if_contains(key));
}

// 0 where there is no such number.
inline uint64_t WholeNumberAt(const boost::json::object& object, const char* key) {
  const boost::json::value* value = object.if_contains(key);
  boost::system::error_code error;
  const uint64_t number = value == nullptr ? 0 : value->to_number<uint64_t>(error);
  return error ? 0 : number;
}

}  // namespace ferry::vm
