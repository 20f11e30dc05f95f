#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "ferry/v1/job.pb.h"

namespace ferry::vm {

// A job as whoever does the work has it: shared by those who tell how it goes, and over at the
// latest when none of them has it any more. Thread: the executor's only.
class Job {
 public:
  using CancelFunction = std::function<absl::Status()>;

  // Whom it tells.
  class Keeper {
   public:
    virtual ~Keeper() = default;
    virtual void OnProgress(const std::string& id, const v1::JobProgress& progress) = 0;
    // `why_not` is empty if it can be cancelled.
    virtual void OnCancellable(const std::string& id, const std::string& why_not) = 0;
    virtual void OnEnded(const std::string& id, const absl::Status& status,
                         const std::string& result) = 0;
  };

  // Once the keeper is gone, or if there is none, nobody is told.
  Job(std::string id, std::weak_ptr<Keeper> keeper);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const std::string& id() const { return id_; }

  void SetProgress(const v1::JobProgress& progress);
  // A step in which nothing is counted.
  void SetPhase(const std::string& phase);
  // For people, of a job that ends well.
  void SetResult(std::string result) { result_ = std::move(result); }

  // `cancel` asks the work to end, and does not wait for that; an error says why it will not. The
  // work then ends with CANCELLED. Until one of these two is called, it cannot be cancelled.
  void AllowCancel(CancelFunction cancel);
  // `why`: "it ...".
  void ForbidCancel(const std::string& why);

  // Only the first call counts.
  void Finish(const absl::Status& status);

  // For the keeper: calls what AllowCancel gave.
  absl::Status Cancel();

 private:
  const std::string id_;
  const std::weak_ptr<Keeper> keeper_;
  std::string result_;
  CancelFunction cancel_;  // empty: it cannot be cancelled
  bool finished_ = false;
};

}  // namespace ferry::vm
