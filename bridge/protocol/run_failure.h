#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"

namespace ferry::bridge {

// Why a program was not run, where that is up to the program. A shell's statuses for these are 127
// and 126.
enum class RunFailure { kNoProgram, kCannotRun };

// `status`, an error, says so beside its text. In the agent as in the host; in between by the
// number of an answer.
absl::Status WithRunFailure(absl::Status status, RunFailure failure);
std::optional<RunFailure> RunFailureOf(const absl::Status& status);

uint32_t ToHresult(RunFailure failure);
std::optional<RunFailure> RunFailureOf(uint32_t hresult);

// Why crun ran no program, as the last line of its log says without its time; nullopt if it failed
// for another reason.
std::optional<RunFailure> RunFailureInWordsOfCrun(std::string_view line);
// What the agent puts before such a line when it passes it on.
inline constexpr std::string_view kWordsOfCrun = "crun: ";

}  // namespace ferry::bridge
