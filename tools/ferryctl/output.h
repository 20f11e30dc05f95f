#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "ferry/v1/guest.pb.h"
#include "ferry/v1/host.pb.h"
#include "ferry/v1/migration.pb.h"
#include "ferry/v1/vm.pb.h"

// How ferryctl prints: aligned tables for people, protobuf's JSON for programs.
namespace ferry::ctl {

enum class OutputFormat { kTable, kJson };

// Rows under upper-case headings, columns aligned, three spaces between them.
class Table {
 public:
  explicit Table(std::vector<std::string> headings) { rows_.push_back(std::move(headings)); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Another host's or a guest's text, with what could steer the terminal made visible.
std::string Printable(const std::string& text);
// The same for text of several lines.
std::string PrintableLines(absl::string_view text);

// The message as JSON with the proto's field names; one line unless `pretty`.
std::string ToJson(const google::protobuf::Message& message, bool pretty);

std::string VmStateName(v1::VmState state);
std::string SessionStateName(v1::SessionState state);
// "succeeded" and so on; "-" while it is not decided.
std::string OutcomeName(v1::SessionOutcome outcome);
// "yes", "no" or "default".
std::string SaveOnStopName(v1::SaveOnStop setting);
std::string ExitText(const v1::ExitStatus& status);

std::string VmTable(const v1::ListVmsResponse& response);
std::string VmDetails(const v1::Vm& vm);
std::string ProcessTable(const v1::ListProcessesResponse& response);
std::string SessionTable(const v1::ListSessionsResponse& response);
std::string SessionDetails(const v1::Session& session);
std::string HostDetails(const v1::Host& host);
std::string EventLine(const v1::Event& event);
// After a migration: total, blackout and its parts, bytes, passes, where the VM runs now.
std::string MigrationSummary(const v1::Session& session);

}  // namespace ferry::ctl
