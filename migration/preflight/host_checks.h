#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "migration/preflight/checks.h"

// The single checks of hosts and machines that checks.h puts together.
namespace ferry::migration {

v1::PreflightCheck CheckCertificate(const std::string& name, const CertificateFacts& facts,
                                    int64_t now_unix_ms);
v1::PreflightCheck CheckFolder(const std::string& name, const FolderFacts& folder);
// On the source the VM is claimed as long as it is there; so it is at a destination that shares the
// source's fence.
v1::PreflightCheck CheckSourceFence(const FenceFacts& fence);
v1::PreflightCheck CheckDestinationFence(const FenceFacts& fence);
v1::PreflightCheck CheckMemory(const absl::StatusOr<vm::Capacity>& memory);
v1::PreflightCheck CheckClock(int64_t source_unix_ms, int64_t now_unix_ms);
// `told` is what a source is told to dial, `bound` what is listened on.
v1::PreflightCheck CheckMigrationAddress(const std::string& told, const std::string& bound,
                                         const std::string& source);
// One check for each part of a machine in which hosts can differ.
std::vector<v1::PreflightCheck> CheckMachine(const DestinationFacts& facts);

}  // namespace ferry::migration
