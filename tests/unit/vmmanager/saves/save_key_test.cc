#include "vmmanager/saves/save_key.h"

#include <sys/stat.h>

#include "tests/unit/vmmanager/saves/saves_fixture.h"

namespace ferry::vm {
namespace {

class SaveKeyTest : public SavesTest {
 protected:
  absl::StatusOr<SaveKey> Read(std::string_view bytes, mode_t mode = 0600) {
    const std::string path = folder_ + "/key";
    Put(path, bytes);
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return ReadSaveKey(path);
  }
};

TEST_F(SaveKeyTest, TakesBytesAndHexDigits) {
  std::string bytes;
  for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<char>(i * 8 + 5));
  std::string upper = ToHex(bytes);
  for (char& digit : upper) digit = static_cast<char>(std::toupper(digit));
  for (const std::string& text : {bytes, ToHex(bytes), ToHex(bytes) + "\n", upper}) {
    auto key = Read(text);
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(std::string(key->bytes.begin(), key->bytes.end()), bytes);
  }
  // Though it ends with what looks like a newline.
  EXPECT_TRUE(Read(std::string(31, '0') + "\n").ok());
}

TEST_F(SaveKeyTest, RefusesWhatIsNoKey) {
  for (const std::string& text :
       {std::string(), std::string(31, 'a'), std::string(33, 'a'), std::string(63, 'a'),
        std::string(63, 'a') + "\n", std::string(63, 'a') + "g", std::string(65, 'a'),
        std::string(64, 'a') + "\n\n", std::string(64, 'a') + "\r\n", std::string(5000, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Read(text).status())) << text.size();
  }
}

TEST_F(SaveKeyTest, RefusesFilesThatOthersMayUse) {
  const std::string text(64, 'a');
  for (const mode_t mode : {0640u, 0604u, 0620u, 0601u}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(Read(text, mode).status())) << mode;
  }
  EXPECT_TRUE(Read(text, 0400).ok());
}

TEST_F(SaveKeyTest, RefusesWhatIsNoFile) {
  EXPECT_TRUE(absl::IsNotFound(ReadSaveKey(folder_ + "/none").status()));
  ASSERT_EQ(::mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ReadSaveKey(folder_ + "/fifo").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadSaveKey(folder_).status()));
}

}  // namespace
}  // namespace ferry::vm
