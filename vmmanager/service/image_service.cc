#include "vmmanager/service/image_service.h"

#include <boost/system/system_error.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxPiece = size_t{1} << 20;
// Of what is received, so much goes by without a word.
constexpr uint64_t kProgressBytes = uint64_t{4} << 20;

v1::ArchiveKind ToProto(layers::ArchiveKind kind) {
  switch (kind) {
    case layers::ArchiveKind::kOci:
      return v1::ARCHIVE_KIND_OCI;
    case layers::ArchiveKind::kDocker:
      return v1::ARCHIVE_KIND_DOCKER;
    case layers::ArchiveKind::kRootfs:
      return v1::ARCHIVE_KIND_ROOTFS;
    case layers::ArchiveKind::kAny:
      break;
  }
  return v1::ARCHIVE_KIND_UNSPECIFIED;
}

absl::StatusOr<layers::ArchiveKind> FromProto(v1::ArchiveKind kind) {
  switch (kind) {
    case v1::ARCHIVE_KIND_UNSPECIFIED:
      return layers::ArchiveKind::kAny;
    case v1::ARCHIVE_KIND_OCI:
      return layers::ArchiveKind::kOci;
    case v1::ARCHIVE_KIND_DOCKER:
      return layers::ArchiveKind::kDocker;
    case v1::ARCHIVE_KIND_ROOTFS:
      return layers::ArchiveKind::kRootfs;
    default:
      return absl::InvalidArgumentError(absl::StrCat("there is no kind of archive ", kind));
  }
}

absl::StatusOr<ImportRequest> ToRequest(const v1::ImportImageRequest& first) {
  if (!first.has_header()) {
    return absl::InvalidArgumentError("the first message must be the header");
  }
  ImportRequest request;
  request.name = first.header().name();
  ASSIGN_OR_RETURN(request.kind, FromProto(first.header().kind()));
  if (first.header().has_size()) request.size = first.header().size();
  return request;
}

v1::ImportImageResponse ToProto(const ImportProgress& progress) {
  v1::ImportImageResponse response;
  v1::ImportImageResponse::Progress* told = response.mutable_progress();
  using Step = ImportProgress::Step;
  told->set_step(progress.step == Step::kReceiving  ? v1::ImportImageResponse::STEP_RECEIVING
                 : progress.step == Step::kBuilding ? v1::ImportImageResponse::STEP_BUILDING
                                                    : v1::ImportImageResponse::STEP_STORING);
  told->set_done(progress.done);
  told->set_of(progress.of);
  return response;
}

template <typename Stream>
Task<absl::StatusOr<v1::ImportImageRequest>> Next(std::shared_ptr<Stream> stream) {
  std::optional<v1::ImportImageRequest> message = co_await stream->Read();
  if (!message) co_return absl::CancelledError("the archive broke off");
  co_return *std::move(message);
}

// The archive as it comes, until the client says that this was all.
template <typename Stream>
Task<absl::StatusOr<std::optional<std::string>>> NextPiece(std::shared_ptr<Stream> stream,
                                                           milliseconds patience) {
  Task<absl::StatusOr<v1::ImportImageRequest>> next = Next(std::move(stream));
  absl::StatusOr<v1::ImportImageRequest> message =
      co_await WithDeadline(patience, "a piece of the archive", std::move(next));
  if (!message.ok()) co_return message.status();
  if (message->has_end()) co_return std::nullopt;
  if (!message->has_data() || message->data().size() > kMaxPiece) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("after the header come pieces of at most ", kMaxPiece, " bytes"));
  }
  co_return std::move(*message->mutable_data());
}

void Show(const ImportProgress& progress, Job& job) {
  using Step = ImportProgress::Step;
  v1::JobProgress shown;
  shown.set_done(progress.done);
  shown.set_total(progress.of);
  if (progress.step == Step::kReceiving) {
    shown.set_unit(v1::JOB_UNIT_BYTES);
    shown.set_phase("receiving");
  } else if (progress.step == Step::kBuilding) {
    shown.set_unit(v1::JOB_UNIT_LAYERS);
    shown.set_phase("making layers");
  } else {
    job.ForbidCancel("the image is just being stored");
    shown.set_phase("storing");
  }
  job.SetProgress(shown);
}

// CANCELLED if the event comes first.
Task<absl::StatusOr<Image>> UnlessSet(Task<absl::StatusOr<Image>> importing,
                                      std::shared_ptr<AsyncEvent> called_off) {
  using asio::experimental::awaitable_operators::operator||;
  try {
    auto first = co_await (std::move(importing) || called_off->Wait());
    if (first.index() == 0) co_return std::get<0>(std::move(first));
  } catch (const asio::multiple_exceptions&) {
    // Both were cancelled from outside.
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  co_return absl::CancelledError("the import was cancelled");
}

// One of the imports that run, as long as it lives.
class CountedImport {
 public:
  explicit CountedImport(int* count) : count_(count) { ++*count_; }
  ~CountedImport() { --*count_; }
  CountedImport(const CountedImport&) = delete;
  CountedImport& operator=(const CountedImport&) = delete;

 private:
  int* const count_;
};

}  // namespace

v1::Image ToProto(const Image& image) {
  v1::Image proto;
  proto.set_name(image.name);
  proto.set_id(image.id);
  proto.set_kind(ToProto(image.kind));
  proto.set_created_unix_ms(image.created_unix_ms);
  const layers::ImageConfig& from = image.config;
  v1::ImageConfig* config = proto.mutable_config();
  config->mutable_entrypoint()->Assign(from.entrypoint.begin(), from.entrypoint.end());
  config->mutable_cmd()->Assign(from.cmd.begin(), from.cmd.end());
  config->mutable_env()->Assign(from.env.begin(), from.env.end());
  config->set_working_dir(from.working_dir);
  config->set_user(from.user);
  config->set_stop_signal(from.stop_signal);
  config->mutable_labels()->insert(from.labels.begin(), from.labels.end());
  config->set_architecture(from.architecture);
  config->set_os(from.os);
  uint64_t disk_bytes = 0;
  for (const ImageLayer& layer : image.layers) {
    v1::ImageLayer* told = proto.add_layers();
    told->set_digest(layer.digest);
    told->set_diff_id(layer.diff_id);
    told->set_disk_bytes(layer.disk_size);
    told->set_file_bytes(layer.file_bytes);
    told->set_files(layer.entries);
    disk_bytes += layer.disk_size;
  }
  proto.set_disk_bytes(disk_bytes);
  return proto;
}

grpc::ServerBidiReactor<v1::ImportImageRequest, v1::ImportImageResponse>* ImageService::ImportImage(
    grpc::CallbackServerContext* context) {
  return rpc::ServeBidi<v1::ImportImageRequest, v1::ImportImageResponse>(
      context, executor_,
      [this](std::shared_ptr<ImportStream> stream) { return Import(std::move(stream)); });
}

Task<absl::Status> ImageService::Import(std::shared_ptr<ImportStream> stream) {
  // One that says nothing takes nobody's place.
  Task<absl::StatusOr<v1::ImportImageRequest>> reading = Next(stream);
  CO_ASSIGN_OR_RETURN(
      const v1::ImportImageRequest first,
      co_await WithDeadline(limits_.patience, "the import's header", std::move(reading)));
  CO_ASSIGN_OR_RETURN(ImportRequest request, ToRequest(first));
  if (imports_ >= limits_.imports) {
    co_return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted,
                                   absl::StrCat("this host is busy with ", imports_, " imports"),
                                   "too_many_imports", "Try again when one has ended.");
  }
  const CountedImport counted(&imports_);
  JobDescription about{.kind = v1::JOB_KIND_IMPORT, .what = absl::StrCat("image ", request.name)};
  JobWork make = [this, request, stream](std::shared_ptr<Job> job) {
    return Make(request, stream, std::move(job));
  };
  co_return co_await RunAsJob(jobs_, std::move(about), std::move(make));
}

Task<absl::Status> ImageService::Make(ImportRequest request, std::shared_ptr<ImportStream> stream,
                                      std::shared_ptr<Job> job) {
  auto called_off = std::make_shared<AsyncEvent>(executor_);
  job->AllowCancel([called_off] {
    called_off->Set();
    return absl::OkStatus();
  });
  ImageImporter::NextPiece next = [stream, patience = limits_.patience] {
    return NextPiece(stream, patience);
  };
  // A client that does not listen gets no more to read than it has room for.
  ImageImporter::OnProgress tell = [stream, job = std::weak_ptr(job),
                                    told = uint64_t{0}](const ImportProgress& progress) mutable {
    if (auto shown = job.lock()) Show(progress, *shown);
    if (progress.step == ImportProgress::Step::kReceiving) {
      if (progress.done - told < kProgressBytes) return;
      told = progress.done;
    }
    if (stream->writable()) stream->Write(ToProto(progress));
  };
  Task<absl::StatusOr<Image>> importing =
      importer_.Import(std::move(request), std::move(next), std::move(tell));
  const absl::StatusOr<Image> image = co_await UnlessSet(std::move(importing), called_off);
  if (!image.ok()) co_return image.status();
  job->SetResult(absl::StrCat("image ", image->name, ", ", image->id));
  v1::ImportImageResponse response;
  *response.mutable_image() = ToProto(*image);
  stream->Write(std::move(response));
  co_return absl::OkStatus();
}

grpc::ServerUnaryReactor* ImageService::ListImages(grpc::CallbackServerContext* context,
                                                   const v1::ListImagesRequest* request,
                                                   v1::ListImagesResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::ListImagesRequest&) -> Task<absl::StatusOr<v1::ListImagesResponse>> {
        CO_ASSIGN_OR_RETURN(const std::vector<Image> images, store_.List());
        v1::ListImagesResponse list;
        for (const Image& image : images) {
          v1::Image* told = list.add_images();
          *told = ToProto(image);
          // An image's maker chose its length, and there may be many.
          told->clear_config();
        }
        co_return list;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* ImageService::GetImage(grpc::CallbackServerContext* context,
                                                 const v1::ImageRef* request, v1::Image* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::ImageRef& ref) -> Task<absl::StatusOr<v1::Image>> {
        CO_ASSIGN_OR_RETURN(const Image image, store_.Find(ref.name()));
        co_return ToProto(image);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* ImageService::RemoveImage(grpc::CallbackServerContext* context,
                                                    const v1::ImageRef* request,
                                                    v1::RemoveImageResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::ImageRef& ref) -> Task<absl::StatusOr<v1::RemoveImageResponse>> {
        std::string name = ref.name();
        CO_RETURN_IF_ERROR(co_await store_.Remove(std::move(name)));
        co_return v1::RemoveImageResponse();
      });
}

}  // namespace ferry::vm
