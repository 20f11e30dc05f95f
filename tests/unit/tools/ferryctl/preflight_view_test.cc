#include "tools/ferryctl/preflight_view.h"

#include <gmock/gmock.h>

#include "tools/ferryctl/errors.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void Add(v1::PreflightResponse& response, const std::string& name, v1::PreflightResult result,
         const std::string& message, const std::string& fix) {
  v1::PreflightCheck* check = response.add_checks();
  check->set_name(name);
  check->set_result(result);
  check->set_message(message);
  check->set_fix(fix);
}

TEST(PreflightView, EachCheckHasALineAndItsFixBelow) {
  v1::PreflightResponse response;
  Add(response, "reachability", v1::PREFLIGHT_RESULT_PASS, "b:1 answers", "");
  Add(response, "clock", v1::PREFLIGHT_RESULT_WARN, "60 s ahead", "use NTP");
  response.set_ok(true);
  EXPECT_EQ(PreflightTable(response),
            "CHECK          RESULT   FOUND\n"
            "reachability   pass     b:1 answers\n"
            "clock          warn     60 s ahead\n"
            "                        -> use NTP\n"
            "\n"
            "The migration would be accepted.\n");
  Add(response, "memory", v1::PREFLIGHT_RESULT_FAIL, "too little\x1b[2J", "free some");
  response.set_ok(false);
  const std::string text = PreflightTable(response);
  EXPECT_THAT(text, HasSubstr("memory         FAIL     too little?[2J\n"));
  EXPECT_THAT(text, HasSubstr("would be refused: 1 check failed.\n"));
}

TEST(PreflightView, DifferencesOfAnErrorAreATable) {
  v1::ErrorInfo info;
  info.set_reason("configuration_differs");
  v1::Difference* difference = info.add_differences();
  difference->set_field("cpu_model");
  difference->set_source("Nehalem");
  difference->set_destination("unknown to qemu 7.2.22");
  const absl::Status status =
      rpc::WithErrorInfo(absl::FailedPreconditionError("the hosts differ"), info);
  const std::string text = ErrorText("migrating VM web", status, "a:1");
  EXPECT_THAT(text, HasSubstr("    FIELD       SOURCE    DESTINATION\n"
                              "    cpu_model   Nehalem   unknown to qemu 7.2.22\n"));
  info.clear_differences();
  EXPECT_THAT(ErrorText("migrating VM web", rpc::WithErrorInfo(status, info), "a:1"),
              Not(HasSubstr("FIELD")));
}

}  // namespace
}  // namespace ferry::ctl
