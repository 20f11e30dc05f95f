#include "migration/preflight/verdict.h"

namespace ferry::migration {
namespace {

v1::PreflightCheck Check(const std::string& name, v1::PreflightResult result,
                         const std::string& found, const std::string& fix) {
  v1::PreflightCheck check;
  check.set_name(name);
  check.set_result(result);
  check.set_message(found);
  check.set_fix(fix);
  return check;
}

}  // namespace

v1::PreflightCheck Passed(const std::string& name, const std::string& found) {
  return Check(name, v1::PREFLIGHT_RESULT_PASS, found, "");
}

v1::PreflightCheck Warned(const std::string& name, const std::string& found,
                          const std::string& fix) {
  return Check(name, v1::PREFLIGHT_RESULT_WARN, found, fix);
}

v1::PreflightCheck Failed(const std::string& name, const std::string& found,
                          const std::string& fix) {
  return Check(name, v1::PREFLIGHT_RESULT_FAIL, found, fix);
}

v1::PreflightCheck PassedIf(const std::string& name, const absl::Status& status,
                            const std::string& found, const std::string& fix) {
  if (status.ok()) return Passed(name, found);
  return Failed(name, std::string(status.message()), fix);
}

}  // namespace ferry::migration
