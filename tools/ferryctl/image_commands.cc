#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/fd_thread.h"
#include "tools/ferryctl/folder_archive.h"
#include "tools/ferryctl/image_view.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/client_stream.h"

// `ferryctl image ...`.
namespace ferry::ctl {
namespace {

using ImageAsync = v1::ImageService::StubInterface::async_interface;
using ImportCall =
    rpc::StreamOwner<rpc::ClientBidiStream<v1::ImportImageRequest, v1::ImportImageResponse>>;

constexpr size_t kPiece = size_t{512} << 10;
constexpr milliseconds kRemovalTimeout(120000);

struct ImportArguments {
  std::string name, source, kind = "any";
};

// Where the archive's bytes come from: a file, a folder that is archived on the way, or stdin.
struct ImportSource {
  UniqueFd file;
  std::unique_ptr<FolderArchive> folder;
  std::optional<uint64_t> size;

  int fd() const { return folder ? folder->fd() : file.valid() ? file.get() : STDIN_FILENO; }
};

absl::StatusOr<ImportSource> OpenSource(const std::string& path) {
  ImportSource source;
  if (path == "-") {
    if (!IsTerminal(STDIN_FILENO)) return source;
    return absl::InvalidArgumentError("stdin is a terminal; pipe an archive into it");
  }
  struct stat info {};
  source.file.Reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source.file.valid() || ::fstat(source.file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  if (S_ISDIR(info.st_mode)) {
    ASSIGN_OR_RETURN(source.folder, FolderArchive::Open(path));
  } else if (S_ISREG(info.st_mode)) {
    source.size = static_cast<uint64_t>(info.st_size);
  }
  return source;
}

v1::ArchiveKind ArchiveKindOf(const std::string& word) {
  if (word == "oci") return v1::ARCHIVE_KIND_OCI;
  if (word == "docker") return v1::ARCHIVE_KIND_DOCKER;
  if (word == "rootfs") return v1::ARCHIVE_KIND_ROOTFS;
  return v1::ARCHIVE_KIND_UNSPECIFIED;
}

// Sends all of the source. What fails here ends the call, and is told in `failure`.
Task<void> SendArchive(Client* client, ImportCall* call, ImportSource* source,
                       absl::Status* failure) {
  {
    FdThread reader(client->executor, source->fd());
    while (co_await (*call)->WaitWritable()) {
      FdThread::Result read = co_await reader.Read(kPiece);
      if (read.error != 0) *failure = absl::ErrnoToStatus(read.error, "cannot read the archive");
      if (read.error == 0 && read.data.empty() && source->folder) {
        *failure = source->folder->Finish();
      }
      if (!failure->ok()) {
        (*call)->Cancel();
        co_return;
      }
      v1::ImportImageRequest request;
      const bool over = read.data.empty();
      if (over) {
        request.mutable_end();
      } else {
        request.set_data(std::move(read.data));
      }
      (*call)->Write(std::move(request));
      if (over) break;
    }
  }
  co_await (*call)->WaitGone();
}

// Shows how it goes, on a terminal only.
class ImportView {
 public:
  explicit ImportView(const GlobalOptions& options)
      : shown_(options.format() == OutputFormat::kTable && IsTerminal(STDERR_FILENO)) {}
  ~ImportView() { Clear(); }

  void Show(const v1::ImportImageResponse::Progress& progress) {
    if (!shown_) return;
    std::fprintf(stderr, "\r\x1b[K%s", ImportProgressLine(progress).c_str());
    drawn_ = true;
  }
  void Clear() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
    drawn_ = false;
  }

 private:
  const bool shown_;
  bool drawn_ = false;
};

// Takes what the daemon says until it has said everything.
Task<void> TakeAnswers(ImportCall* call, ImportView* view, std::optional<v1::Image>* image) {
  while (std::optional<v1::ImportImageResponse> response = co_await (*call)->Read()) {
    if (response->has_image()) *image = response->image();
    if (response->has_progress()) view->Show(response->progress());
  }
}

// What the caller named cannot be read. Names of files may hold anything.
int NotRead(const std::string& doing, const absl::Status& why, const char* next) {
  std::fprintf(stderr, "Error: %s failed: %s\n%s", Printable(doing).c_str(),
               PrintableLines(why.message()).c_str(), next);
  return kUsage;
}

Task<int> Import(Client* client, ImportArguments arguments) {
  using asio::experimental::awaitable_operators::operator||;
  const std::string doing = absl::StrCat("importing ", arguments.source);
  absl::StatusOr<ImportSource> source = OpenSource(arguments.source);
  if (!source.ok()) co_return NotRead(doing, source.status(), "");
  ImportCall call =
      rpc::OpenBidi(client->executor, client->images->async(), &ImageAsync::ImportImage);
  v1::ImportImageRequest header;
  header.mutable_header()->set_name(arguments.name);
  header.mutable_header()->set_kind(ArchiveKindOf(arguments.kind));
  if (source->size) header.mutable_header()->set_size(*source->size);
  call->Write(std::move(header));

  ImportView view(client->options);
  std::optional<v1::Image> image;
  absl::Status failure;
  Task<void> sending = SendArchive(client, &call, &*source, &failure);
  Task<void> taking = TakeAnswers(&call, &view, &image);
  co_await (std::move(sending) || std::move(taking));
  // The sender may have seen the end first.
  Task<void> rest = TakeAnswers(&call, &view, &image);
  co_await std::move(rest);
  const absl::Status status = co_await call->Finish();
  view.Clear();
  if (!failure.ok()) {
    co_return NotRead(doing, failure, "  Next:     Nothing was kept; try again.\n");
  }
  if (!status.ok()) co_return Fail(*client, doing, status);
  if (!image) co_return Fail(*client, doing, absl::InternalError("the daemon sent no image"));
  const bool json = client->options.format() == OutputFormat::kJson;
  std::fputs((json ? ToJson(*image, true) : ImportedLine(*image)).c_str(), stdout);
  co_return kOk;
}

void AddImport(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* sub = app->add_subcommand(
      "import", "Make an image of an OCI layout, docker save's archive or a root file system");
  sub->add_option("name", arguments->name, "The image's name, e.g. web or web:1.2")->required();
  sub->add_option("source", arguments->source,
                  "A tar (plain, gzip or zstd), a folder, or - for stdin")
      ->required();
  sub->add_option("--kind", arguments->kind, "What it is: any (found out), oci, docker or rootfs")
      ->check(CLI::IsMember({"any", "oci", "docker", "rootfs"}))
      ->capture_default_str();
  sub->callback([arguments, command] {
    command->action = [arguments](Client* client) { return Import(client, *arguments); };
  });
}

Task<int> RemoveImages(Client* client, std::vector<std::string> names) {
  int code = kOk;
  for (const std::string& name : names) {
    v1::ImageRef ref;
    ref.set_name(name);
    const absl::StatusOr<v1::RemoveImageResponse> removed = co_await rpc::CallUnary(
        client->images->async(), &ImageAsync::RemoveImage, std::move(ref), kRemovalTimeout);
    if (removed.ok()) continue;
    const int failed = Fail(*client, absl::StrCat("removing image ", name), removed.status());
    if (code == kOk) code = failed;
  }
  co_return code;
}

}  // namespace

void AddImageCommands(CLI::App* app, Command* command) {
  CLI::App* image = app->add_subcommand("image", "Import, show and remove container images");
  image->require_subcommand(1);
  image->fallthrough();
  AddImport(image, command);
  image->add_subcommand("list", "List the host's images")->callback([command] {
    command->action = [](Client* client) {
      return CallAndPrint(client, client->images->async(), &ImageAsync::ListImages,
                          v1::ListImagesRequest(), kCallTimeout, "listing images", &ImageTable);
    };
  });
  auto name = std::make_shared<std::string>();
  CLI::App* inspect = image->add_subcommand("inspect", "Show one image and its layers");
  inspect->add_option("image", *name, "Its name or id")->required();
  inspect->callback([name, command] {
    command->action = [name](Client* client) {
      v1::ImageRef ref;
      ref.set_name(*name);
      return CallAndPrint(client, client->images->async(), &ImageAsync::GetImage, std::move(ref),
                          kCallTimeout, absl::StrCat("inspecting image ", *name), &ImageDetails);
    };
  });
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* remove = image->add_subcommand("rm", "Remove images that nothing uses");
  remove->add_option("images", *names, "Their names or ids")->required();
  remove->callback([names, command] {
    command->action = [names](Client* client) { return RemoveImages(client, *names); };
  });
}

}  // namespace ferry::ctl
