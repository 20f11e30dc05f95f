#include "vmmanager/qemu/job_report.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

namespace json = boost::json;

Task<absl::StatusOr<JobReport>> AskForJob(QemuMachine* machine, std::string id) {
  CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-jobs"));
  JobReport report;
  const json::array* jobs = answer.if_array();
  if (jobs == nullptr) co_return report;
  for (const json::value& job : *jobs) {
    const json::object* fields = job.if_object();
    if (fields == nullptr || TextAt(*fields, "id") != id) continue;
    report.present = true;
    report.state = TextAt(*fields, "status");
    report.error = TextAt(*fields, "error");
  }
  co_return report;
}

Task<absl::Status> DismissJob(QemuMachine* machine, std::string id) {
  json::object arguments = {{"id", std::move(id)}};
  co_return (co_await machine->Command("job-dismiss", std::move(arguments))).status();
}

}  // namespace ferry::vm
