#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "tools/ferryctl/attach_session.h"
#include "tools/ferryctl/command.h"

// What several of the commands for containers do.
namespace ferry::ctl {

inline constexpr milliseconds kRemovalTimeout(120000);

v1::ContainerRef RefTo(const std::string& container, const std::string& vm);
// What any host that its VM has gone to knows it by, whatever id it has there: the one that it was
// made with, which is no other container's of that VM.
v1::ContainerRef RefAnywhereTo(const v1::Container& container);

Task<absl::StatusOr<v1::Container>> FindContainer(Client* client, v1::ContainerRef ref);
Task<absl::Status> RemoveContainer(Client* client, v1::ContainerRef ref, bool force);

// How a person wants to be attached.
struct AttachWish {
  bool steal = false;
  bool started = false;  // see AttachConfig
  DetachKeys detach_keys;
};
void AddDetachKeys(CLI::App* sub, AttachWish* wish);
// The same, and --steal.
void AddAttachWish(CLI::App* sub, AttachWish* wish);

// Attaches this program's stdio to the container's init, and follows it to where its VM goes. Says
// what there is to say and returns the exit status. `address`, unless null: where it ran last, if
// the container has ended.
Task<int> AttachToContainer(Client* client, v1::Container container, AttachWish wish,
                            std::string* address);

// Whether a person's "-i" and "-t" ask for a terminal that is not there; says so.
bool LacksTerminal(bool interactive, bool terminal, bool detached);

}  // namespace ferry::ctl
