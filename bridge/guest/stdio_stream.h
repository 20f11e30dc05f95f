#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// The relay of one stdio stream between a process and its port on the host.
class StdioStream {
 public:
  virtual ~StdioStream() = default;

  // The process takes no more input; an output stream goes on to its own end.
  virtual void ProcessExited() = 0;

  // Drops everything. Idempotent.
  virtual void Abort() = 0;

  // Everything was delivered, and nothing runs any more.
  virtual bool over() const = 0;
};

// With resumable frames; dials by itself, as often as it takes.
std::shared_ptr<StdioStream> StartResumableOutput(Executor executor, GuestTransport& transport,
                                                  uint32_t port, UniqueFd source);
std::shared_ptr<StdioStream> StartResumableInput(Executor executor, GuestTransport& transport,
                                                 uint32_t port, UniqueFd sink, bool terminal);

// Raw bytes and half-closes over one connection; a lost link ends the stream.
std::shared_ptr<StdioStream> StartPlainOutput(Executor executor,
                                              std::shared_ptr<Connection> connection,
                                              UniqueFd source);
std::shared_ptr<StdioStream> StartPlainInput(Executor executor,
                                             std::shared_ptr<Connection> connection, UniqueFd sink);

// Reads and drops what nobody wants, so that the process does not block.
std::shared_ptr<StdioStream> StartDiscard(Executor executor, UniqueFd source);

}  // namespace ferry::bridge
