#pragma once

// What ferryctl's exit status means; documented in docs/cli.md. `run`, `exec` and `attach`
// instead exit with the command's status, or with one of the last three.
namespace ferry::ctl {

inline constexpr int kOk = 0;
inline constexpr int kInternal = 1;
inline constexpr int kUsage = 2;
inline constexpr int kUnreachable = 3;
inline constexpr int kRefused = 4;  // nothing was changed
inline constexpr int kMigrationFailed = 5;
inline constexpr int kCancelled = 6;
inline constexpr int kTimedOut = 7;
inline constexpr int kNeedsPerson = 8;
inline constexpr int kRestoreRefused = 9;  // what was saved cannot go on here; it is kept
inline constexpr int kExecFailed = 125;
inline constexpr int kCannotRun = 126;  // a container's program
inline constexpr int kNoProgram = 127;

}  // namespace ferry::ctl
