#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early return on errors, for functions (RETURN_IF_ERROR, ASSIGN_OR_RETURN) and for coroutines
// (CO_RETURN_IF_ERROR, CO_ASSIGN_OR_RETURN). Debian's Abseil ships none.

#define FERRY_STATUS_CONCAT_INNER(a, b) a##b
#define FERRY_STATUS_CONCAT(a, b) FERRY_STATUS_CONCAT_INNER(a, b)

#define FERRY_RETURN_IF_ERROR_IMPL(return_word, expr) \
  do {                                                \
    ::absl::Status ferry_status = (expr);             \
    if (!ferry_status.ok()) return_word ferry_status; \
  } while (false)

#define FERRY_ASSIGN_OR_IMPL(return_word, result, lhs, expr) \
  auto result = (expr);                                      \
  if (!result.ok()) return_word std::move(result).status();  \
  lhs = *std::move(result)

#define RETURN_IF_ERROR(expr) FERRY_RETURN_IF_ERROR_IMPL(return, expr)
#define CO_RETURN_IF_ERROR(expr) FERRY_RETURN_IF_ERROR_IMPL(co_return, expr)

#define ASSIGN_OR_RETURN(lhs, expr) \
  FERRY_ASSIGN_OR_IMPL(return, FERRY_STATUS_CONCAT(ferry_result_, __LINE__), lhs, expr)
#define CO_ASSIGN_OR_RETURN(lhs, expr) \
  FERRY_ASSIGN_OR_IMPL(co_return, FERRY_STATUS_CONCAT(ferry_result_, __LINE__), lhs, expr)
