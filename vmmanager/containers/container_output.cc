#include "vmmanager/containers/container_output.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/spool.h"
#include "guestmanager/spool_file.h"

namespace ferry::vm {

using guest::Spool;
using guest::SpoolFile;
using guest::Stream;

std::string ContainerOutput::PathOf(const std::string& container_id, Stream stream) const {
  return absl::StrCat(FolderOf(container_id), stream == Stream::kStderr ? "/stderr" : "/stdout");
}

absl::Status ContainerOutput::MakeFolder(const std::string& container_id) const {
  for (const std::string& folder : {folder_, FolderOf(container_id)}) {
    if (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) continue;
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make folder ", folder));
  }
  return absl::OkStatus();
}

absl::Status ContainerOutput::Keep(const std::string& container_id, Stream stream,
                                   const std::string& from) const {
  RETURN_IF_ERROR(MakeFolder(container_id));
  const std::string to = PathOf(container_id, stream);
  if (::link(from.c_str(), to.c_str()) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot keep ", from));
  }
  ::unlink(from.c_str());
  return absl::OkStatus();
}

void ContainerOutput::Discard(const std::string& from) const { ::unlink(from.c_str()); }

bool ContainerOutput::Has(const std::string& container_id) const {
  return ::access(PathOf(container_id, Stream::kStdout).c_str(), F_OK) == 0 ||
         ::access(PathOf(container_id, Stream::kStderr).c_str(), F_OK) == 0;
}

absl::Status ContainerOutput::Write(const std::string& container_id, Stream stream,
                                    const state::v1::ContainerOutput& output) const {
  RETURN_IF_ERROR(MakeFolder(container_id));
  const size_t capacity = output.bytes().size();
  return SpoolFile(PathOf(container_id, stream), capacity)
      .Update(Spool(capacity, output.start(), output.bytes()), output.ended());
}

absl::StatusOr<state::v1::ContainerOutput> ContainerOutput::Export(const std::string& container_id,
                                                                   Stream stream,
                                                                   size_t limit) const {
  ASSIGN_OR_RETURN(SpoolFile::Content content, SpoolFile::Read(PathOf(container_id, stream)));
  const size_t drop = content.bytes.size() - std::min(limit, content.bytes.size());
  state::v1::ContainerOutput output;
  output.set_start(content.start + drop);
  output.set_bytes(content.bytes.substr(drop));
  output.set_ended(content.ended);
  return output;
}

absl::StatusOr<guest::KeptOutput> ContainerOutput::Read(const std::string& container_id,
                                                        Stream stream, uint64_t since,
                                                        size_t limit) const {
  ASSIGN_OR_RETURN(SpoolFile::Content content, SpoolFile::Read(PathOf(container_id, stream)));
  const size_t size = content.bytes.size();
  guest::KeptOutput kept =
      guest::ReadKept(Spool(size, content.start, std::move(content.bytes)), since, limit);
  // Whatever the file says: its VM has ended.
  kept.ended = true;
  return kept;
}

void ContainerOutput::Remove(const std::string& container_id) const {
  for (const Stream stream : {Stream::kStdout, Stream::kStderr}) {
    ::unlink(PathOf(container_id, stream).c_str());
  }
  ::rmdir(FolderOf(container_id).c_str());
}

}  // namespace ferry::vm
