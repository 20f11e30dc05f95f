#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/qemu/qmp_core.h"

namespace ferry::vm {

struct QmpCallOptions {
  milliseconds deadline{10'000};
  QmpLane lane = QmpLane::kInBand;
  int send_fd = -1;  // passed along with the command (getfd); stays the caller's
};

// A QMP connection over a connected Unix stream socket. Destroying it closes the connection.
class QmpClient {
 public:
  // Starts reading; nothing may be executed before WaitReady() has returned OK.
  QmpClient(Executor executor, UniqueFd socket);
  ~QmpClient();
  QmpClient(const QmpClient&) = delete;
  QmpClient& operator=(const QmpClient&) = delete;

  // Returns once QEMU's greeting and the capabilities are negotiated.
  Task<absl::Status> WaitReady(milliseconds deadline);

  // Runs a command and returns its `return` value. DEADLINE_EXCEEDED names the command.
  Task<absl::StatusOr<boost::json::value>> Execute(
      std::string command, boost::json::object arguments = boost::json::object(),
      QmpCallOptions options = QmpCallOptions());

  // Sends all but the end of a command that will probably be the next one: see QmpCore. Of several
  // in a row the first one counts.
  void Anticipate(std::string command, boost::json::object arguments = boost::json::object());

  // Events in order; closes when the connection ends.
  AsyncQueue<QmpEvent>& events();

  bool connected() const;
  void Close();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace ferry::vm
