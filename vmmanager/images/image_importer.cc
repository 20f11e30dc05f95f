#include "vmmanager/images/image_importer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/images/image_name.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kPieceTime{60'000};
constexpr size_t kMaxResult = size_t{16} << 20;

// Known to tools/ferry-layers/main.cc.
constexpr int kBuilderSource = 3;
constexpr int kBuilderOutput = 4;
constexpr int kBuilderRefused = 2;
constexpr int kBuilderTooMuch = 3;

std::string SourceFile(const TempFolder& folder) { return folder.path() + "/source"; }

absl::Status WritePiece(int fd, const std::string& piece) {
  for (size_t done = 0; done < piece.size();) {
    const ssize_t count = ::write(fd, piece.data() + done, piece.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, "cannot keep the archive");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
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
    case kBuilderRefused:
      return rpc::ErrorWithReason(absl::StatusCode::kInvalidArgument, end.last_words, "bad_image");
    case kBuilderTooMuch:
      return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, end.last_words,
                                  "image_too_large");
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
  auto file = std::make_shared<UniqueFd>(::open(
      SourceFile(*folder).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file->valid()) co_return absl::ErrnoToStatus(errno, "cannot keep the archive");
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
      co_return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted,
                                     absl::StrCat("the archive has more than the ",
                                                  options_.limits.bytes, " bytes that are allowed"),
                                     "image_too_large");
    }
    std::function<absl::Status()> write = [file, bytes = **std::move(piece)] {
      return WritePiece(file->get(), bytes);
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
  const UniqueFd source(::open(SourceFile(*folder).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!source.valid()) co_return absl::ErrnoToStatus(errno, "cannot read the archive");
  ToolCommand command;
  command.program = options_.builder;
  command.arguments = {layers::ArchiveKindName(request.kind), absl::StrCat(options_.limits.bytes),
                       absl::StrCat(options_.limits.entries)};
  command.descriptors = {{kBuilderSource, source.get()}, {kBuilderOutput, folder->out_fd()}};
  command.deadline = options_.build_time;
  command.progress = [progress](absl::string_view line) { TellLine(progress, line); };
  command.holds = folder;
  absl::StatusOr<ToolEnd> end = co_await runner_.Run(std::move(command));
  if (!end.ok()) co_return end.status();
  CO_RETURN_IF_ERROR(ToStatus(*end));
  absl::StatusOr<std::string> text = ReadWhole(folder->out_path() + "/result.json", kMaxResult);
  absl::StatusOr<layers::BuiltImage> built =
      text.ok() ? layers::BuiltImageFromJson(*text)
                : absl::StatusOr<layers::BuiltImage>(text.status());
  if (built.ok() && !built->layers.empty()) co_return built;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kInternal,
      absl::StrCat("ferry-layers left no result: ", std::string(built.status().message())),
      "tool_failed");
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
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<TempFolder> folder,
                      store_.MakeTempFolder(options_.user));
  absl::StatusOr<Image> image =
      co_await Make(std::move(request), folder, std::move(next), std::move(progress));
  co_await folder->Remove();
  co_return image;
}

}  // namespace ferry::vm
