#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/bridge/task_test.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/layers/byte_source.h"

namespace ferry::vm {

inline void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline std::string DigestOf(const std::string& bytes) {
  layers::Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

// The names in a folder, sorted.
inline std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A store of images in a folder of the test's own.
class ImagesTest : public TaskTest {
 protected:
  ImagesTest() { Reopen(); }

  // As after a restart of the daemon.
  void Reopen() {
    store_.reset();
    ImageStore::Options options;
    options.folder = images();
    Await(OpenStore(io_.get_executor(), std::move(options), &store_));
    ASSERT_NE(store_, nullptr);
  }

  // How opening it goes.
  Task<absl::Status> TryOpen() {
    ImageStore::Options options;
    options.folder = images();
    co_return (co_await ImageStore::Open(io_.get_executor(), std::move(options))).status();
  }

  static Task<void> OpenStore(Executor executor, ImageStore::Options options,
                              std::unique_ptr<ImageStore>* store) {
    auto opened = co_await ImageStore::Open(std::move(executor), std::move(options));
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (opened.ok()) *store = *std::move(opened);
  }

  std::string images() const { return folder_.path() + "/images"; }
  std::vector<std::string> LayerFiles() const { return FilesIn(images() + "/layers"); }
  std::vector<std::string> TempFiles() const { return FilesIn(images() + "/tmp"); }

  // An image of layers with these bytes, which are no file systems; the store does not care.
  absl::StatusOr<Image> Add(const std::string& name, const std::vector<std::string>& layers,
                            const std::string& command = "") {
    auto folder = store_->MakeTempFolder(std::nullopt);
    EXPECT_TRUE(folder.ok()) << folder.status();
    layers::BuiltImage built;
    built.kind = layers::ArchiveKind::kOci;
    built.config.cmd = {command};
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::string file = absl::StrCat("layer-", i);
      WriteFile(absl::StrCat((*folder)->out_path(), "/", file), layers[i]);
      built.layers.push_back({file, DigestOf("tar of " + layers[i]), layers[i].size(), 1});
    }
    auto image = Await(store_->Add(name, std::move(built), *folder));
    Await((*folder)->Remove());
    return image;
  }

  TestFolder folder_;
  std::unique_ptr<ImageStore> store_;
};

}  // namespace ferry::vm
