#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/container/container_root.h"

// The files of /etc in which a container finds out what it and others are called. It has its own,
// whatever its image has there, and may write to them.
namespace ferry::bridge {

// The one that says whom to ask for names.
inline constexpr char kResolverFile[] = "resolv.conf";
inline constexpr const char* kNameFiles[] = {"hosts", "hostname", kResolverFile};

// Their texts by name, for a container of that host name (empty: the guest's); `resolver` is what
// it is told of name servers. No I/O.
std::map<std::string, std::string> NameFileTexts(const std::string& hostname,
                                                 const std::string& resolver);

// The specification with the files of these names mounted from `folder` in /etc; a mount that it
// has there already stays in place of ours. Without I/O, too.
absl::StatusOr<std::string> MountNameFiles(const std::string& specification,
                                           const std::string& folder,
                                           const std::vector<std::string>& names, bool writable);

// Those for which the root has a place: a file, or in a root that is `writable` nothing, so that
// one can be made. None if it has no /etc. Synchronous, and may hang with a disk.
std::vector<std::string> NameFilesIn(const ContainerRoot& root, bool writable);

}  // namespace ferry::bridge
