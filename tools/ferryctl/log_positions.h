#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/guest.pb.h"
#include "tools/ferryctl/attach_core.h"

namespace ferry::ctl {

// How far somebody is with reading what is kept of a process's output.
class LogPositions {
 public:
  // "OFFSET" of both streams, or "OFFSET,OFFSET" of stdout and of stderr.
  static absl::StatusOr<LogPositions> Parse(absl::string_view text);

  uint64_t stdout_next() const { return out_.next; }
  uint64_t stderr_next() const { return err_.next; }

  // Whether the VM went back to an earlier state since the last part was read: then this one is not
  // what is wanted, and it goes on where that is.
  bool GoesBack(const v1::ReadOutputResponse::Part& part);
  // Notes that the part was read. Returns how many bytes before it are not kept any more.
  uint64_t Take(const v1::ReadOutputResponse::Part& part);
  // Whether everything that was kept has been read, and whether nothing can follow.
  bool caught_up() const { return out_.caught_up() && err_.caught_up(); }
  bool ended() const { return caught_up() && out_.ended && err_.ended; }
  // From where on to watch it, and how far somebody came who did.
  WatchFrom Rest() const;
  void GoOnFrom(const WatchFrom& position);

 private:
  struct Stream {
    std::optional<uint32_t> generation;  // unset: nothing was read yet
    uint64_t next = 0;
    uint64_t end = 0;  // behind the last byte that was kept when that was asked
    bool ended = false;

    bool caught_up() const { return next >= end; }
    v1::AttachRequest::Position Rest() const;
  };

  Stream out_;
  Stream err_;
};

}  // namespace ferry::ctl
