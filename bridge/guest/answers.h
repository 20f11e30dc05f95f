#pragma once

#include <string>

#include "absl/status/status.h"
#include "bridge/protocol/messages.h"

// The answers that requests of all kinds have in common, as JSON texts.
namespace ferry::bridge {

// Whether a request is about the VM itself.
bool IsVm(const std::string& container_id);

std::string StatusText(const absl::Status& status);

std::string BadJson(const absl::Status& status);

// Of a text inside the request's own.
std::string BadJsonIn(const RequestBase& request, const char* member);
std::string Ok(const RequestBase& request);

// To ExecuteProcess.
std::string Executed(const RequestBase& request, uint32_t pid);

// From an agent that has no containers at all.
std::string NoContainer(const RequestBase& request);
std::string NoProcess(const RequestBase& request, uint32_t pid);

// NOT_FOUND means the process.
std::string FromStatus(const RequestBase& request, const absl::Status& status);

// NOT_FOUND means the container.
std::string FromContainerStatus(const RequestBase& request, const absl::Status& status);

}  // namespace ferry::bridge
