#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Records with numbers, each a block of every disk in turn, by which a test sees that disks and
// memory are of one instant. The one with a number is in the block with that number and says
// "NUMBER CRC32 MARK": the CRC is of "NUMBER\n" as zlib has it, and the mark one that the record
// would not get a second time. What memory knows is in files of /tmp: `marks` has a line "NUMBER
// MARK" for each, `begun` and `done` the last record that is about to be written and that is on all
// disks.
namespace ferry::workload {

// Writes them, from 1 on, until it fails. The first 20 are written at once, the others with `pause`
// before each. Each is on its disk for good before the next disk gets it. 1 if a disk or a file
// fails.
int WriteRecords(const std::vector<std::string>& disks, std::chrono::milliseconds pause);

// Prints what is on each disk, whatever memory remembers of it, in blocks 1 to `most`: all bytes
// but zeros, and then a line "over". 1 if a disk fails.
int ReadRecords(const std::vector<std::string>& disks, size_t most);

// Returns once the record with that number, or a later one, is done: 0. 1 if nobody could tell.
int AwaitRecord(uint64_t number);

}  // namespace ferry::workload
