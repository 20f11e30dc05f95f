#pragma once

#include "migration/controller/session_registry.h"
#include "vmmanager/jobs/job_source.h"

namespace ferry::migration {

// A source's session as a job of its host. Its id is the session's.
v1::Job ToJob(const v1::Session& session);

// The migrations away from this host as jobs, by what the registry knows of their sessions. Thread:
// the executor's only.
class MigrationJobs final : public vm::JobSource {
 public:
  // `sessions` must outlive it.
  explicit MigrationJobs(SessionRegistry& sessions) : sessions_(sessions) {}

  std::vector<v1::Job> ListJobs() const override;
  std::optional<vm::JobView> FindJob(const std::string& id) const override;
  Task<absl::Status> AwaitChange(std::string id, uint64_t seen) override;
  Task<absl::Status> CancelJob(std::string id) override;
  // Always refused: records of sessions go by themselves.
  Task<absl::Status> DismissJob(std::string id) override;

 private:
  SessionRegistry& sessions_;
};

}  // namespace ferry::migration
