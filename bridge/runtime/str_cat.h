#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace ferry {
namespace internal {

template <typename T>
decltype(auto) AsAbslText(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return absl::string_view(value.data(), value.size());
  } else {
    return (value);
  }
}

}  // namespace internal

// absl::StrCat that takes std::string_view too: Debian builds Abseil as C++14, where
// absl::string_view is a type of its own.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(internal::AsAbslText(args)...);
}

}  // namespace ferry
