#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"

// Where an attached client looks for its process: a pure decision over what daemons told it.
namespace ferry::ctl {

class AttachRoute {
 public:
  // `started`: a moment ago the process was there, so that it is followed if it has left since.
  AttachRoute(std::string start, bool started) : here_(std::move(start)), follows_(started) {}

  // The address to attach at now.
  const std::string& target() const { return target_.empty() ? here_ : target_; }
  // Every address worth looking at, the one learned last first.
  std::vector<std::string> Candidates() const;

  void OnOpened();
  void OnMigrationOpened(std::string destination) { there_ = std::move(destination); }
  void OnMigrationClosed() { there_.clear(); }
  void OnMoved(std::string destination);
  // An open attachment broke: the VM may have left.
  void OnBroken();
  // An attempt at target() failed: turns to the next candidate.
  void OnRefused(const absl::Status& status);

  // How long to wait before the next attempt. Zero for the first one after a break.
  std::chrono::milliseconds delay() const;
  // Whether another attempt is pointless, whatever the time.
  bool hopeless() const;
  // Whether its VM is known to be saved, so that it is there again when somebody starts that.
  bool waits_for_restore() const { return waits_for_restore_; }

 private:
  std::string here_;      // where the last attachment was open
  std::string there_;     // where a migration leads
  std::string previous_;  // where it was open before
  std::string target_;
  bool follows_ = false;  // it was there
  bool fatal_ = false;
  bool waits_for_restore_ = false;
  int attempts_ = 0;   // refused since the last open attachment
  int not_found_ = 0;  // of them in a row: "no such VM or process"
};

}  // namespace ferry::ctl
