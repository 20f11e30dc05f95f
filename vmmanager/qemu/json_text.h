#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
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

}  // namespace ferry::vm
