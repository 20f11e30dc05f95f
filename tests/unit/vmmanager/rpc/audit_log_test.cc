#include "vmmanager/rpc/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace {

std::mutex threads_mutex;
std::set<std::thread::id> threads_that_waited_for_the_disk;

}  // namespace

// In the place of libc's.
extern "C" int fdatasync(int fd) {
  std::lock_guard<std::mutex> lock(threads_mutex);
  threads_that_waited_for_the_disk.insert(std::this_thread::get_id());
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace ferry::rpc {
namespace {

using ::testing::ElementsAre;

class AuditLogTest : public testing::Test {
 protected:
  AuditLogTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "ferry-audit-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ / "audit.log";
  }
  ~AuditLogTest() override { std::filesystem::remove_all(folder_); }

  static std::vector<boost::json::object> Lines(const std::string& path) {
    std::vector<boost::json::object> lines;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      lines.push_back(boost::json::parse(line).as_object());
    }
    return lines;
  }

  static AuditRecord Record(const std::string& vm) {
    AuditRecord record;
    record.time = std::chrono::system_clock::from_time_t(1'700'000'000);
    record.caller.way = Caller::Way::kCertificate;
    record.caller.identity = {"alice", {identity::Role::kOperator}};
    record.caller.address = "ipv4:192.0.2.1:4711";
    record.method = "VmService/StopVm";
    record.details = {{"vm", vm}, {"name", "root"}, {"outcome", "FINE"}};
    record.outcome = "OK";
    record.took = std::chrono::milliseconds(12);
    return record;
  }

  std::filesystem::path folder_;
  std::string path_;
};

TEST_F(AuditLogTest, LinesSayWhoDidWhatAndWhatCameOfIt) {
  auto log = AuditLog::Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->Write(Record("a \"quoted\"\nname"));
  AuditRecord local;
  local.caller.way = Caller::Way::kLocal;
  local.caller.uid = 1000;
  local.method = "VmService/DeleteVm";
  local.outcome = "NOT_FOUND";
  local.reason = "vm_not_found";
  (*log)->Write(local);
  const auto lines = Lines(path_);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("time").as_string(), "2023-11-14T22:13:20.000000Z");
  EXPECT_EQ(lines[0].at("name").as_string(), "alice");
  EXPECT_EQ(lines[0].at("roles").as_array().at(0).as_string(), "operator");
  EXPECT_EQ(lines[0].at("address").as_string(), "ipv4:192.0.2.1:4711");
  EXPECT_EQ(lines[0].at("request").at("vm").as_string(), "a \"quoted\"\nname");
  EXPECT_EQ(lines[0].at("took_ms").as_int64(), 12);
  EXPECT_EQ(lines[1].at("uid").as_int64(), 1000);
  EXPECT_EQ(lines[1].at("reason").as_string(), "vm_not_found");
  EXPECT_FALSE(lines[1].contains("name"));
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(AuditLogTest, GoesOnWhereAFormerDaemonEnded) {
  for (const char* vm : {"one", "two"}) (*AuditLog::Open(path_))->Write(Record(vm));
  const auto lines = Lines(path_);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1].at("request").at("vm").as_string(), "two");
}

TEST_F(AuditLogTest, KeepsTheNewestLinesWithinItsBounds) {
  AuditLimits limits;
  limits.file_bytes = 1000;
  limits.former_files = 2;
  {
    auto log = AuditLog::Open(path_, limits);
    ASSERT_TRUE(log.ok());
    for (int i = 0; i < 100; ++i) (*log)->Write(Record(std::to_string(i)));
  }
  std::vector<std::string> vms;
  for (const char* suffix : {".2", ".1", ""}) {
    EXPECT_LE(std::filesystem::file_size(path_ + suffix), 1000u);
    for (const auto& line : Lines(path_ + suffix))
      vms.emplace_back(line.at("request").at("vm").as_string());
  }
  EXPECT_FALSE(std::filesystem::exists(path_ + ".3"));
  ASSERT_GT(vms.size(), 10u);
  EXPECT_EQ(vms.back(), "99");
  for (size_t i = 1; i < vms.size(); ++i) EXPECT_EQ(std::stoi(vms[i]), std::stoi(vms[i - 1]) + 1);
}

// The VMs of the lines, the oldest first.
std::vector<std::string> Vms(const std::vector<boost::json::object>& lines) {
  std::vector<std::string> vms;
  for (const auto& line : lines) {
    const auto* vm = line.at("request").as_object().if_contains("vm");
    vms.emplace_back(vm == nullptr ? "none" : vm->as_string());
  }
  return vms;
}

AuditLimits OneLineInAFile() {
  AuditLimits limits;
  limits.file_bytes = 1;
  limits.former_files = 3;
  return limits;
}

TEST_F(AuditLogTest, WhatCannotBeOpenedAnewLosesNoLineAndNoFile) {
  auto log = AuditLog::Open(path_, OneLineInAFile());
  ASSERT_TRUE(log.ok());
  for (const char* vm : {"one", "two", "three"}) (*log)->Write(Record(vm));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  for (const char* vm : {"four", "five"}) (*log)->Write(Record(vm));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  (*log)->Write(Record("six"));
  EXPECT_THAT(Vms(Lines(path_ + ".3")), ElementsAre("one"));
  EXPECT_THAT(Vms(Lines(path_ + ".2")), ElementsAre("two"));
  EXPECT_THAT(Vms(Lines(path_ + ".1")), ElementsAre("three", "four", "five"));
  EXPECT_THAT(Vms(Lines(path_)), ElementsAre("six"));
}

TEST_F(AuditLogTest, AFileThatWasMovedAwayIsMadeAnew) {
  auto log = AuditLog::Open(path_, OneLineInAFile());
  ASSERT_TRUE(log.ok());
  (*log)->Write(Record("one"));
  std::filesystem::rename(path_, path_ + ".away");
  for (const char* vm : {"two", "three"}) (*log)->Write(Record(vm));
  EXPECT_THAT(Vms(Lines(path_ + ".1")), ElementsAre("two"));
  EXPECT_THAT(Vms(Lines(path_)), ElementsAre("three"));
}

TEST_F(AuditLogTest, WhoWritesDoesNotWaitForTheDisk) {
  {
    auto log = AuditLog::Open(path_, OneLineInAFile());
    ASSERT_TRUE(log.ok());
    for (int i = 0; i < 5; ++i) (*log)->Write(Record("vm"));
  }
  std::lock_guard<std::mutex> lock(threads_mutex);
  EXPECT_FALSE(threads_that_waited_for_the_disk.empty());
  EXPECT_FALSE(threads_that_waited_for_the_disk.contains(std::this_thread::get_id()));
}

TEST_F(AuditLogTest, RefusalsPushNothingOut) {
  AuditLimits limits;
  limits.refusals = 3;
  limits.refusal_time = std::chrono::hours(1);
  {
    auto log = AuditLog::Open(path_, limits);
    ASSERT_TRUE(log.ok());
    for (int i = 0; i < 100; ++i) (*log)->WriteRefusal(Record(std::to_string(i)));
    (*log)->Write(Record("done"));
  }
  const auto lines = Lines(path_);
  EXPECT_THAT(Vms(lines), ElementsAre("0", "1", "2", "done", "none"));
  EXPECT_EQ(lines.back().at("method").as_string(), "refusals");
  EXPECT_EQ(lines.back().at("request").at("left_out").as_string(), "97");
}

TEST_F(AuditLogTest, RefusalsThatWereLeftOutAreToldBeforeTheNextOnes) {
  AuditLimits limits;
  limits.refusals = 0;
  limits.refusal_time = std::chrono::milliseconds(0);
  auto log = AuditLog::Open(path_, limits);
  ASSERT_TRUE(log.ok());
  (*log)->WriteRefusal(Record("one"));
  (*log)->WriteRefusal(Record("two"));
  const auto lines = Lines(path_);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0].at("request").at("left_out").as_string(), "1");
}

TEST_F(AuditLogTest, LinesAreUtf8AndBounded) {
  auto log = AuditLog::Open(path_);
  ASSERT_TRUE(log.ok());
  std::string long_name = "x";
  while (long_name.size() < 1000) long_name += "\u00e9";
  (*log)->Write(Record(long_name));
  (*log)->Write(Record("a\xff\xc3"));
  const auto lines = Lines(path_);  // parsing them takes UTF-8
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("request").at("vm").as_string(), long_name.substr(0, 255));
  EXPECT_EQ(lines[1].at("request").at("vm").as_string(), "a\\xff\\xc3");
}

TEST_F(AuditLogTest, ALinkInItsPlaceIsNotFollowed) {
  std::filesystem::create_symlink("/dev/null", path_);
  EXPECT_FALSE(AuditLog::Open(path_).ok());
}

}  // namespace
}  // namespace ferry::rpc
