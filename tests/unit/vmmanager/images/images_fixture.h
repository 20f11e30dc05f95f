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
#include "tests/unit/vmmanager/layers/digest_of.h"
#include "vmmanager/images/image_store.h"

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

using layers::DigestOf;

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
    const absl::Status opened = Await(OpenWith(StoreOptions()));
    ASSERT_TRUE(opened.ok()) << opened;
  }

  Task<absl::Status> OpenWith(ImageStore::Options options) {
    store_ = std::make_unique<ImageStore>(io_.get_executor(), std::move(options));
    co_return co_await store_->Open();
  }

  ImageStore::Options StoreOptions() const {
    ImageStore::Options options;
    options.folder = images();
    return options;
  }
  std::shared_ptr<TempFolder> NewFolder() {
    auto folder = Await(store_->MakeTempFolder(std::nullopt));
    EXPECT_TRUE(folder.ok()) << folder.status();
    return *folder;
  }
  // How many images there are.
  size_t Count() const { return store_->List().value().size(); }

  std::string images() const { return folder_.path() + "/images"; }
  std::vector<std::string> LayerFiles() const { return FilesIn(images() + "/layers"); }
  std::vector<std::string> TempFiles() const { return FilesIn(images() + "/tmp"); }

  // An image of layers with these bytes, which are no file systems; the store does not care.
  absl::StatusOr<Image> Add(const std::string& name, const std::vector<std::string>& layers,
                            const std::string& command = "") {
    const auto folder = NewFolder();
    layers::BuiltImage built;
    built.kind = layers::ArchiveKind::kOci;
    built.config.cmd = {command};
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::string file = absl::StrCat("layer-", i);
      WriteFile(absl::StrCat(folder->out_path(), "/", file), layers[i]);
      built.layers.push_back({file, DigestOf("tar of " + layers[i]), layers[i].size(), 1});
    }
    auto image = Await(store_->Add(name, std::move(built), folder));
    Await(folder->Remove());
    return image;
  }

  TestFolder folder_;
  std::unique_ptr<ImageStore> store_;
};

}  // namespace ferry::vm
