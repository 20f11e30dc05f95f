#pragma once

#include <cstdint>

// Numbers of the guest compute service (GCS) protocol, version 4, and of Ferry's extension to it.
// Type bits: kind(4) category(8) message(12) version(8).
namespace ferry::bridge {

inline constexpr uint32_t kProtocolVersion = 4;

inline constexpr uint32_t kKindMask = 0xF0000000;
inline constexpr uint32_t kKindRequest = 0x10000000;
inline constexpr uint32_t kKindResponse = 0x20000000;
inline constexpr uint32_t kKindNotification = 0x30000000;

inline constexpr uint32_t kCategoryMask = 0x0FF00000;
inline constexpr uint32_t kCategoryComputeSystem = 0x00100000;
inline constexpr uint32_t kCategoryComputeService = 0x00200000;
inline constexpr uint32_t kCategoryFerry = 0x00F00000;

// Requests. The answer to one has the same number with the kind swapped (ResponseType).
inline constexpr uint32_t kCreate = 0x10100101;
inline constexpr uint32_t kStart = 0x10100201;
inline constexpr uint32_t kShutdownGraceful = 0x10100301;
inline constexpr uint32_t kShutdownForced = 0x10100401;
inline constexpr uint32_t kExecuteProcess = 0x10100501;
inline constexpr uint32_t kWaitForProcess = 0x10100601;
inline constexpr uint32_t kSignalProcess = 0x10100701;
inline constexpr uint32_t kResizeConsole = 0x10100801;
inline constexpr uint32_t kGetProperties = 0x10100901;
inline constexpr uint32_t kModifySettings = 0x10100A01;
inline constexpr uint32_t kNegotiateProtocol = 0x10100B01;
inline constexpr uint32_t kDumpStacks = 0x10100C01;
inline constexpr uint32_t kDeleteContainerState = 0x10100D01;
inline constexpr uint32_t kUpdateContainer = 0x10100E01;
inline constexpr uint32_t kLifecycleNotification = 0x10100F01;
inline constexpr uint32_t kModifyServiceSettings = 0x10200101;

// Ferry's own; only sent to an agent that announced AcknowledgeExitSupported.
inline constexpr uint32_t kAcknowledgeExit = 0x10F00101;
inline constexpr uint32_t kListProcesses = 0x10F00201;
// Only sent to an agent that announced ContainersSupported.
inline constexpr uint32_t kPauseContainer = 0x10F00301;
inline constexpr uint32_t kResumeContainer = 0x10F00401;
// Only sent to an agent that announced ClockSupported.
inline constexpr uint32_t kGetClock = 0x10F00501;
inline constexpr uint32_t kAdjustClock = 0x10F00601;
// Only sent to an agent that announced FreezeSupported.
inline constexpr uint32_t kFreezeFilesystems = 0x10F00701;
inline constexpr uint32_t kThawFilesystems = 0x10F00801;

inline constexpr uint32_t kContainerNotification = 0x30100101;

constexpr uint32_t ResponseType(uint32_t request_type) {
  return (request_type & ~kKindMask) | kKindResponse;
}
constexpr bool IsRequest(uint32_t type) { return (type & kKindMask) == kKindRequest; }
constexpr bool IsResponse(uint32_t type) { return (type & kKindMask) == kKindResponse; }
constexpr bool IsNotification(uint32_t type) { return (type & kKindMask) == kKindNotification; }

// The compute system that stands for the VM itself.
inline constexpr char kNullGuid[] = "00000000-0000-0000-0000-000000000000";

inline constexpr uint32_t kWaitForever = 0xFFFFFFFF;

// HRESULTs that the agent answers with. On the wire they are int32: compare through HResult().
inline constexpr uint32_t kHresultOk = 0;
inline constexpr uint32_t kHresultNotImplemented = 0x80004001;
inline constexpr uint32_t kHresultFailed = 0x80004005;
inline constexpr uint32_t kHresultInvalidArgument = 0x80070057;
inline constexpr uint32_t kHresultProcessNotFound = 0x80070490;
inline constexpr uint32_t kHresultNoProgram = 0x80070002;
inline constexpr uint32_t kHresultCannotRun = 0x800700C1;
inline constexpr uint32_t kHresultInvalidState = 0x80370105;
inline constexpr uint32_t kHresultWaitTimeout = 0xC0370109;
inline constexpr uint32_t kHresultUnknownMessage = 0xC037010B;
inline constexpr uint32_t kHresultBadProtocolVersion = 0xC037010C;
inline constexpr uint32_t kHresultBadJson = 0xC037010D;
inline constexpr uint32_t kHresultContainerNotFound = 0xC037010E;
inline constexpr uint32_t kHresultAlreadyExists = 0xC037010F;
inline constexpr uint32_t kHresultAlreadyStopped = 0xC0370110;

// Zero-extends the int32 of the wire, so that it can be compared with the constants above.
constexpr uint32_t HResult(int32_t result) { return static_cast<uint32_t>(result); }
constexpr int32_t WireResult(uint32_t hresult) { return static_cast<int32_t>(hresult); }

}  // namespace ferry::bridge
