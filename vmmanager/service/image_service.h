#pragma once

#include "ferry/v1/image.grpc.pb.h"
#include "vmmanager/images/image_importer.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/rpc/stream_reactor.h"

namespace ferry::vm {

// ferry.v1.ImageService over the host's images: translates, and posts to the executor.
class ImageService final : public v1::ImageService::CallbackService {
 public:
  struct Limits {
    int imports = 4;                // that run at a time; more are refused
    milliseconds patience{60'000};  // with a client, for each piece
  };

  ImageService(Executor executor, ImageStore& store, ImageImporter& importer)
      : ImageService(std::move(executor), store, importer, Limits()) {}
  ImageService(Executor executor, ImageStore& store, ImageImporter& importer, Limits limits)
      : ImageService(std::move(executor), store, importer, limits, nullptr) {}
  // Imports are jobs of `jobs`.
  ImageService(Executor executor, ImageStore& store, ImageImporter& importer, Limits limits,
               JobRegistry* jobs)
      : executor_(std::move(executor)),
        store_(store),
        importer_(importer),
        limits_(limits),
        jobs_(jobs) {}

  grpc::ServerBidiReactor<v1::ImportImageRequest, v1::ImportImageResponse>* ImportImage(
      grpc::CallbackServerContext*) override;
  grpc::ServerUnaryReactor* ListImages(grpc::CallbackServerContext*, const v1::ListImagesRequest*,
                                       v1::ListImagesResponse*) override;
  grpc::ServerUnaryReactor* GetImage(grpc::CallbackServerContext*, const v1::ImageRef*,
                                     v1::Image*) override;
  grpc::ServerUnaryReactor* RemoveImage(grpc::CallbackServerContext*, const v1::ImageRef*,
                                        v1::RemoveImageResponse*) override;

 private:
  using ImportStream = rpc::BidiStream<v1::ImportImageRequest, v1::ImportImageResponse>;

  Task<absl::Status> Import(std::shared_ptr<ImportStream> stream);
  // As a job, which can be cancelled until the image is stored.
  Task<absl::Status> Make(ImportRequest request, std::shared_ptr<ImportStream> stream,
                          std::shared_ptr<Job> job);

  const Executor executor_;
  ImageStore& store_;
  ImageImporter& importer_;
  const Limits limits_;
  JobRegistry* const jobs_;
  int imports_ = 0;
};

v1::Image ToProto(const Image& image);

}  // namespace ferry::vm
