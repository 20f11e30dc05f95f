#include "migration/controller/refusals.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

// An error's details have 4 KiB.
constexpr size_t kMaxValueBytes = 300;
constexpr size_t kMaxBytes = 3000;

std::string Shortened(const std::string& text) {
  return text.size() <= kMaxValueBytes ? text : absl::StrCat(text.substr(0, kMaxValueBytes), "...");
}

std::string Names(const std::vector<v1::Difference>& differences) {
  std::string names;
  for (const v1::Difference& difference : differences) {
    if (names.size() > kMaxValueBytes) return absl::StrCat(names, " and more");
    absl::StrAppend(&names, names.empty() ? "" : ", ", difference.field());
  }
  return names;
}

}  // namespace

absl::Status RefuseDifferences(const std::vector<v1::Difference>& differences) {
  if (differences.empty()) return absl::OkStatus();
  v1::ErrorInfo info;
  info.set_reason("configuration_differs");
  info.set_next_step("make the hosts agree, or choose another destination");
  std::vector<v1::Difference> told;
  size_t bytes = 0;
  for (const v1::Difference& difference : differences) {
    v1::Difference& shown = told.emplace_back(difference);
    shown.set_source(Shortened(difference.source()));
    shown.set_destination(Shortened(difference.destination()));
    bytes += shown.ByteSizeLong();
    if (bytes > kMaxBytes) {
      told.pop_back();
      break;
    }
  }
  info.mutable_differences()->Add(told.begin(), told.end());
  return rpc::WithErrorInfo(
      absl::FailedPreconditionError(
          absl::StrCat("the hosts differ in ", Names(differences), ", so the VM cannot move")),
      info);
}

}  // namespace ferry::migration
