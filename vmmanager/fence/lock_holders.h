#pragma once

#include <string>

// Who has locked a file by flock, as far as this host's kernel tells. Nothing here asks the file's
// file system.
namespace ferry::vm {

// Whether the open file description behind this descriptor of ours is locked. True if the kernel
// does not tell.
bool IsFlocked(int file);

// For people: the processes of this host that hold the flock of the file that `file` is open on,
// such as "qemu-system-x86 (process 4711)". Empty if none is found: it may be another host's, or a
// process that this one may not look at.
std::string DescribeLockHolders(int file);

}  // namespace ferry::vm
