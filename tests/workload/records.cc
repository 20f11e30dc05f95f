#include "records.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <fstream>
#include <iterator>
#include <memory>
#include <thread>
#include <utility>

namespace ferry::workload {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kChunk = 256;  // blocks that are read at once
constexpr uint64_t kAtOnce = 20;
constexpr char kFolder[] = "/tmp";  // of all of these
constexpr char kMarks[] = "/tmp/marks";
constexpr char kBegun[] = "/tmp/begun";
constexpr char kDone[] = "/tmp/done";

class Disk {
 public:
  Disk(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) perror(path.c_str());
  }
  Disk(Disk&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Disk& operator=(Disk&&) = delete;
  ~Disk() {
    if (fd_ >= 0) close(fd_);
  }

  bool is_open() const { return fd_ >= 0; }

  bool Put(uint64_t block, const std::string& text) const {
    std::string bytes = text;
    bytes.resize(kBlock);
    const auto at = static_cast<off_t>(block * kBlock);
    return pwrite(fd_, bytes.data(), kBlock, at) == static_cast<ssize_t>(kBlock) && fsync(fd_) == 0;
  }

  ssize_t Get(uint64_t block, char* into, size_t blocks) const {
    return pread(fd_, into, blocks * kBlock, static_cast<off_t>(block * kBlock));
  }

 private:
  int fd_;
};

// As large as what is read at once, and where direct I/O wants it to be.
struct alignas(kBlock) Chunk {
  char bytes[kChunk * kBlock];
};

std::string NewMark() {
  std::string mark;
  std::ifstream("/proc/sys/kernel/random/uuid") >> mark;
  return mark;
}

uint32_t SumOf(uint64_t number) {
  const std::string line = std::to_string(number) + "\n";
  boost::crc_32_type crc;
  crc.process_bytes(line.data(), line.size());
  return crc.checksum();
}

// Whoever reads the file sees what it was or what it is, and nothing between.
bool Remember(const std::string& file, const std::string& text) {
  const std::string fresh = file + ".new";
  {
    std::ofstream out(fresh);
    out << text << std::flush;
    if (!out.good()) return false;
  }
  return rename(fresh.c_str(), file.c_str()) == 0;
}

bool IsZero(const char* block) {
  return block[0] == 0 && memcmp(block, block + 1, kBlock - 1) == 0;
}

}  // namespace

int WriteRecords(const std::vector<std::string>& disks, std::chrono::milliseconds pause) {
  std::vector<Disk> open_disks;
  for (const std::string& disk : disks) {
    if (!open_disks.emplace_back(disk, O_WRONLY).is_open()) return 1;
  }
  std::ofstream marks(kMarks, std::ios::app);
  for (uint64_t number = 1;; ++number) {
    if (number > kAtOnce) std::this_thread::sleep_for(pause);
    const std::string name = std::to_string(number);
    const std::string mark = NewMark();
    const std::string text = name + " " + std::to_string(SumOf(number)) + " " + mark + "\n";
    marks << name << " " << mark << std::endl;
    bool is_written = !mark.empty() && marks.good() && Remember(kBegun, text);
    for (const Disk& disk : open_disks) is_written = is_written && disk.Put(number, text);
    if (!is_written || !Remember(kDone, text)) {
      perror("ferry-workload: writing records");
      return 1;
    }
  }
}

int ReadRecords(const std::vector<std::string>& disks, size_t most) {
  const auto chunk = std::make_unique<Chunk>();
  for (const std::string& path : disks) {
    const Disk disk(path, O_RDONLY | O_DIRECT);
    if (!disk.is_open()) return 1;
    std::string text;
    for (size_t next = 1; next <= most; next += kChunk) {
      const ssize_t count = disk.Get(next, chunk->bytes, std::min(kChunk, most + 1 - next));
      if (count <= 0) {
        perror(path.c_str());
        return 1;
      }
      for (const char* block = chunk->bytes; block + kBlock <= chunk->bytes + count;
           block += kBlock) {
        if (IsZero(block)) continue;
        std::copy_if(block, block + kBlock, std::back_inserter(text),
                     [](char c) { return c != 0; });
      }
    }
    printf("%sover\n", text.c_str());
  }
  return fflush(stdout) == 0 ? 0 : 1;
}

int AwaitRecord(uint64_t number) {
  const int changes = inotify_init1(IN_CLOEXEC);
  if (changes < 0 || inotify_add_watch(changes, kFolder, IN_MOVED_TO) < 0) {
    perror("ferry-workload: awaiting a record");
    return 1;
  }
  while (true) {
    uint64_t done = 0;
    std::ifstream(kDone) >> done;
    if (done >= number) return 0;
    alignas(inotify_event) char events[4096];
    if (read(changes, events, sizeof(events)) <= 0) return 1;
  }
}

}  // namespace ferry::workload
