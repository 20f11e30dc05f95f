#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/images/tool_runner.h"
#include "vmmanager/layers/limits.h"

namespace ferry::vm {

struct ImportRequest {
  std::string name;
  layers::ArchiveKind kind = layers::ArchiveKind::kAny;  // any: found out
  std::optional<uint64_t> size;                          // of the archive, if it is known
};

struct ImportProgress {
  enum class Step {
    kReceiving,  // bytes; `of` is 0 if nobody knows
    kBuilding,   // layers
    kStoring,
  };
  Step step = Step::kReceiving;
  uint64_t done = 0;
  uint64_t of = 0;
};

// Makes images of archives: takes one into a private file, has ferry-layers take it apart without
// rights, and gives the layers to the store. Whatever goes wrong, nothing of it stays.
class ImageImporter {
 public:
  struct Options {
    std::string builder;  // path of ferry-layers
    layers::Limits limits;
    milliseconds build_time{3'600'000};
  };
  // The next piece of the archive; nullopt at its end.
  using NextPiece = std::function<Task<absl::StatusOr<std::optional<std::string>>>()>;
  using OnProgress = std::function<void(const ImportProgress&)>;

  ImageImporter(ImageStore& store, ToolRunner& runner, Options options)
      : store_(store), runner_(runner), options_(std::move(options)) {}

  // INVALID_ARGUMENT, saying what is wrong with it, for an archive that is no image or a hostile
  // one; RESOURCE_EXHAUSTED if it is too large, or the disk too full to leave the reserve of the
  // limits. Cancelling leaves nothing,
  // until the image is being stored, which runs to its end.
  Task<absl::StatusOr<Image>> Import(ImportRequest request, NextPiece next, OnProgress progress);

 private:
  Task<absl::StatusOr<Image>> Make(ImportRequest request, std::shared_ptr<TempFolder> folder,
                                   NextPiece next, OnProgress progress);
  Task<absl::Status> Receive(ImportRequest request, std::shared_ptr<TempFolder> folder,
                             NextPiece next, OnProgress progress);
  Task<absl::StatusOr<layers::BuiltImage>> Build(ImportRequest request,
                                                 std::shared_ptr<TempFolder> folder,
                                                 OnProgress progress);
  Task<absl::StatusOr<layers::BuiltImage>> ReadResult(std::shared_ptr<TempFolder> folder);

  ImageStore& store_;
  ToolRunner& runner_;
  const Options options_;
};

}  // namespace ferry::vm
