#include "tools/ferryctl/folder_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ReadAll(int fd) {
  std::string bytes;
  char piece[4096];
  ssize_t count = 0;
  while ((count = ::read(fd, piece, sizeof(piece))) > 0) {
    bytes.append(piece, static_cast<size_t>(count));
  }
  return bytes;
}

std::string ArchiveOf(const std::string& folder) {
  auto archive = FolderArchive::Open(folder);
  EXPECT_TRUE(archive.ok()) << archive.status();
  std::string bytes = ReadAll((*archive)->fd());
  const absl::Status whole = (*archive)->Finish();
  EXPECT_TRUE(whole.ok()) << whole;
  return bytes;
}

// Name, then what it is and leads to.
std::vector<std::string> EntriesOf(const std::string& tar) {
  // libarchive reads names as text of the process's language.
  std::setlocale(LC_CTYPE, "C.UTF-8");
  std::vector<std::string> entries;
  struct archive* in = archive_read_new();
  archive_read_support_format_tar(in);
  archive_read_open_memory(in, tar.data(), tar.size());
  struct archive_entry* entry = nullptr;
  while (archive_read_next_header(in, &entry) == ARCHIVE_OK) {
    std::string text = archive_entry_pathname(entry);
    if (const char* link = archive_entry_hardlink(entry)) text += std::string(" = ") + link;
    if (const char* link = archive_entry_symlink(entry)) text += std::string(" -> ") + link;
    if (archive_entry_filetype(entry) == AE_IFREG && archive_entry_size(entry) > 0) {
      text += " " + std::to_string(archive_entry_size(entry));
    }
    entries.push_back(text);
  }
  archive_read_free(in);
  return entries;
}

TEST(FolderArchiveTest, AFolderComesInTheOrderOfItsNamesWithItsLinks) {
  const TestFolder folder;
  const std::string root = folder.path();
  std::filesystem::create_directory(root + "/z");
  std::ofstream(root + "/z/file") << "12345";
  std::filesystem::create_hard_link(root + "/z/file", root + "/z/hard");
  std::filesystem::create_symlink("/not/here", root + "/link");
  std::ofstream(root + "/a") << std::string(1'000'000, 'a');
  std::ofstream(root + "/\xc3\xa9") << "x";
  ::mkfifo((root + "/pipe").c_str(), 0600);
  const std::string tar = ArchiveOf(root);
  EXPECT_THAT(EntriesOf(tar),
              ElementsAre("./", "./a 1000000", "./link -> /not/here", "./pipe", "./z/",
                          "./z/file 5", "./z/hard = ./z/file", "./\xc3\xa9 1"));
  // Nothing of it depends on when it is read.
  EXPECT_EQ(ArchiveOf(root), tar);
}

TEST(FolderArchiveTest, WhatCannotBeReadIsNamed) {
  auto archive = FolderArchive::Open("/there-is-no-such-folder");
  ASSERT_TRUE(archive.ok());
  (void)ReadAll((*archive)->fd());
  EXPECT_THAT(std::string((*archive)->Finish().message()), HasSubstr("/there-is-no-such-folder"));
}

TEST(FolderArchiveTest, AnArchiveThatNobodyReadsEnds) {
  ::signal(SIGPIPE, SIG_IGN);
  const TestFolder folder;
  std::ofstream(folder.path() + "/large") << std::string(1'000'000, 'a');
  EXPECT_TRUE(FolderArchive::Open(folder.path()).ok());
}

}  // namespace
}  // namespace ferry::ctl
