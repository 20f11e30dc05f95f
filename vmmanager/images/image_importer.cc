#include "vmmanager/images/image_importer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/images/image_name.h"
#include "vmmanager/layers/builder_protocol.h"
#include "vmmanager/layers/disk_space.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kPieceTime{60'000};

static_assert(layers::kBuilderProgress == kToolProgress);

std::string SourceFile(const TempFolder& folder) { return folder.path() + "/source"; }

absl::Status DiskFull(absl::string_view message) {
  return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, message, "disk_full",
                              "Make room on the disk of ferryd's state folder.");
}

// The archive's file as it grows. Blocks.
class IncomingArchive {
 public:
  explicit IncomingArchive(const layers::Limits& limits) : limits_(limits) {}

  // `size` is what will come, as far as that is known.
  absl::Status Open(const std::string& path, uint64_t size) {
    file_.Reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file_.valid()) return absl::ErrnoToStatus(errno, "cannot keep the archive");
    space_.emplace(limits_, file_.get());
    return Told(space_->SpendDisk(std::max<uint64_t>(size, 1)));
  }

  absl::Status Write(const std::string& piece) {
    RETURN_IF_ERROR(Told(space_->SpendDisk(piece.size())));
    if (WriteAll(file_.get(), piece)) return absl::OkStatus();
    return Told(layers::WriteError(errno, "cannot keep the archive"));
  }

 private:
  static absl::Status Told(const absl::Status& status) {
    return absl::IsUnavailable(status) ? DiskFull(status.message()) : status;
  }

  const layers::Limits limits_;
  UniqueFd file_;
  std::optional<layers::Budget> space_;
};

absl::Status TooLarge(uint64_t allowed) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the archive has more than the ", allowed, " bytes that are allowed"),
      "image_too_large");
}

absl::Status WrongLength(uint64_t received, uint64_t announced) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("the archive has ", received, " bytes, and ", announced, " were announced"),
      "bad_image", "Do not change the file while it is imported.");
}

// What the builder said of an archive that it did not take.
absl::Status ToStatus(const ToolEnd& end) {
  switch (end.exit_code) {
    case 0:
      return absl::OkStatus();
    case layers::kBuilderRefused:
      return rpc::ErrorWithReason(absl::StatusCode::kInvalidArgument, end.last_words, "bad_image");
    case layers::kBuilderTooMuch:
      return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, end.last_words,
                                  "image_too_large");
    case layers::kBuilderDiskFull:
      return DiskFull(end.last_words);
    default:
      return rpc::ErrorWithReason(absl::StatusCode::kInternal, end.last_words, "tool_failed");
  }
}

void TellLine(const ImageImporter::OnProgress& progress, absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  ImportProgress told;
  told.step = ImportProgress::Step::kBuilding;
  if (words.size() == 2 && absl::SimpleAtoi(words[0], &told.done) &&
      absl::SimpleAtoi(words[1], &told.of)) {
    progress(told);
  }
}

}  // namespace

Task<absl::Status> ImageImporter::Receive(ImportRequest request, std::shared_ptr<TempFolder> folder,
                                          NextPiece next, OnProgress progress) {
  if (request.size && *request.size > options_.limits.bytes) {
    co_return TooLarge(options_.limits.bytes);
  }
  auto archive = std::make_shared<IncomingArchive>(options_.limits);
  std::function<absl::Status()> open = [archive, path = SourceFile(*folder),
                                        size = request.size.value_or(0)] {
    return archive->Open(path, size);
  };
  CO_RETURN_IF_ERROR(co_await folder->worker().Run(kPieceTime, "the disk", std::move(open)));
  ImportProgress told;
  told.of = request.size.value_or(0);
  while (true) {
    absl::StatusOr<std::optional<std::string>> piece = co_await next();
    if (!piece.ok()) co_return piece.status();
    if (!piece->has_value()) break;
    const uint64_t size = (*piece)->size();
    if (request.size && told.done + size > *request.size) {
      co_return WrongLength(told.done + size, *request.size);
    }
    if (told.done + size > options_.limits.bytes) {
      co_return TooLarge(options_.limits.bytes);
    }
    std::function<absl::Status()> write = [archive, bytes = **std::move(piece)] {
      return archive->Write(bytes);
    };
    CO_RETURN_IF_ERROR(co_await folder->worker().Run(kPieceTime, "the disk", std::move(write)));
    told.done += size;
    progress(told);
  }
  if (request.size && told.done != *request.size) {
    co_return WrongLength(told.done, *request.size);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<layers::BuiltImage>> ImageImporter::Build(ImportRequest request,
                                                              std::shared_ptr<TempFolder> folder,
                                                              OnProgress progress) {
  auto source = std::make_shared<UniqueFd>();
  std::function<absl::Status()> open = [source, path = SourceFile(*folder)] {
    source->Reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    return source->valid() ? absl::OkStatus()
                           : absl::ErrnoToStatus(errno, "cannot read the archive");
  };
  CO_RETURN_IF_ERROR(co_await folder->worker().Run(kPieceTime, "the disk", std::move(open)));
  ToolCommand command;
  command.program = options_.builder;
  command.ferrys_own = true;
  command.arguments = {layers::ArchiveKindName(request.kind), absl::StrCat(options_.limits.bytes),
                       absl::StrCat(options_.limits.entries),
                       absl::StrCat(options_.limits.reserve)};
  command.descriptors = {{layers::kBuilderSource, source->get()},
                         {layers::kBuilderOutput, folder->out_fd()}};
  command.deadline = options_.build_time;
  command.progress = [progress](absl::string_view line) { TellLine(progress, line); };
  command.holds = folder;
  absl::StatusOr<ToolEnd> end = co_await runner_.Run(std::move(command));
  if (!end.ok()) co_return end.status();
  CO_RETURN_IF_ERROR(ToStatus(*end));
  co_return co_await ReadResult(std::move(folder));
}

// Not on the daemon's own thread, for it may have been made to take long.
Task<absl::StatusOr<layers::BuiltImage>> ImageImporter::ReadResult(
    std::shared_ptr<TempFolder> folder) {
  auto built = std::make_shared<layers::BuiltImage>();
  std::function<absl::Status()> read =
      [built, limits = options_.limits,
       path = absl::StrCat(folder->out_path(), "/", layers::kBuilderResult)] {
        ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, layers::kMaxBuilderResult));
        ASSIGN_OR_RETURN(*built, layers::BuiltImageFromJson(text, limits));
        return absl::OkStatus();
      };
  const absl::Status there = co_await folder->worker().Run(kPieceTime, "the disk", std::move(read));
  if (there.ok()) co_return std::move(*built);
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kInternal,
      absl::StrCat("ferry-layers left no result: ", std::string(there.message())), "tool_failed");
}

Task<absl::StatusOr<Image>> ImageImporter::Make(ImportRequest request,
                                                std::shared_ptr<TempFolder> folder, NextPiece next,
                                                OnProgress progress) {
  CO_RETURN_IF_ERROR(co_await Receive(request, folder, std::move(next), progress));
  absl::StatusOr<layers::BuiltImage> built = co_await Build(request, folder, progress);
  if (!built.ok()) co_return built.status();
  ImportProgress storing;
  storing.step = ImportProgress::Step::kStoring;
  progress(storing);
  co_return co_await store_.Add(std::move(request.name), *std::move(built), folder);
}

Task<absl::StatusOr<Image>> ImageImporter::Import(ImportRequest request, NextPiece next,
                                                  OnProgress progress) {
  CO_ASSIGN_OR_RETURN(request.name, FullImageName(request.name));
  CO_ASSIGN_OR_RETURN(const std::optional<ProcessUser> user, runner_.user());
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<TempFolder> folder,
                      co_await store_.MakeTempFolder(user));
  absl::StatusOr<Image> image =
      co_await Make(std::move(request), folder, std::move(next), std::move(progress));
  co_await folder->Remove();
  co_return image;
}

}  // namespace ferry::vm
