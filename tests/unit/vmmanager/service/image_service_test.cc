#include "vmmanager/service/image_service.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/images/fake_tool_runner.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/store/fake_store.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;
using ImageAsync = v1::ImageService::StubInterface::async_interface;
using ImportClient =
    rpc::StreamOwner<rpc::ClientBidiStream<v1::ImportImageRequest, v1::ImportImageResponse>>;

class ImageServiceTest : public ImagesTest {
 protected:
  ImageServiceTest() {
    runner_.act = [](const ToolCommand& command) {
      const std::string out =
          std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", command.descriptors.at(4)));
      std::ofstream(out + "/layer-0") << "layer";
      layers::BuiltImage built;
      built.kind = layers::ArchiveKind::kOci;
      built.config.cmd = {"serve"};
      built.layers = {{"layer-0", absl::StrCat("sha256:", std::string(64, 'a')), 7, 3}};
      std::ofstream(out + "/result.json") << layers::ToJsonText(built);
      return ToolEnd{};
    };
    ImageImporter::Options import;
    import.builder = "ferry-layers";
    importer_.emplace(*store_, runner_, import);
    Serve({.imports = 1});
  }
  void TearDown() override {
    Await(jobs_.Close());
    Await(events_.Close());
    Stop();
  }

  void Serve(ImageService::Limits limits) {
    service_.emplace(io_.get_executor(), *store_, *importer_, limits, &jobs_);
    rpc::ServerOptions server;
    server.unix_socket = folder_.path() + "/s";
    server_ = *rpc::Server::Start(server, {&*service_});
    stub_ = v1::ImageService::NewStub(*rpc::MakeChannel("unix:" + server.unix_socket, {}));
  }
  void Stop() {
    Await(server_->Shutdown(milliseconds(0)));
    Settle();
  }

  ImportClient Open(const std::string& name) {
    ImportClient call = rpc::OpenBidi(io_.get_executor(), stub_->async(), &ImageAsync::ImportImage);
    v1::ImportImageRequest header;
    header.mutable_header()->set_name(name);
    call->Write(header);
    return call;
  }
  static v1::ImportImageRequest Data(const std::string& bytes) {
    v1::ImportImageRequest data;
    data.set_data(bytes);
    return data;
  }
  static v1::ImportImageRequest End() {
    v1::ImportImageRequest end;
    end.mutable_end();
    return end;
  }
  // All that comes, and how it ends.
  absl::Status Finish(ImportClient& call, std::optional<v1::Image>* image = nullptr) {
    while (auto response = Await(call->Read())) {
      if (response->has_image() && image != nullptr) *image = response->image();
    }
    return Await(call->Finish());
  }

  // The job of the only import so far.
  v1::Job Only() {
    Settle();
    const std::vector<v1::Job> all = jobs_.ListJobs();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? v1::Job() : all.front();
  }

  FakeStore journal_;
  EventLog events_{io_.get_executor(), journal_};
  JobRegistry jobs_{io_.get_executor(), journal_, events_};
  FakeToolRunner runner_{io_.get_executor()};
  std::optional<ImageImporter> importer_;
  std::optional<ImageService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::ImageService::Stub> stub_;
};

TEST_F(ImageServiceTest, AnImageIsImportedListedShownAndRemoved) {
  ImportClient call = Open("web");
  call->Write(Data("archive"));
  call->Write(End());
  std::optional<v1::Image> image;
  ASSERT_TRUE(Finish(call, &image).ok());
  ASSERT_TRUE(image.has_value());
  EXPECT_EQ(image->name(), "web:latest");
  EXPECT_EQ(image->kind(), v1::ARCHIVE_KIND_OCI);
  EXPECT_EQ(image->config().cmd(0), "serve");
  EXPECT_EQ(image->layers(0).files(), 3u);
  EXPECT_EQ(image->disk_bytes(), 5u);
  const auto list = Await(rpc::CallUnary(stub_->async(), &ImageAsync::ListImages,
                                         v1::ListImagesRequest(), milliseconds(60'000)));
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(list->images_size(), 1);
  v1::ImageRef ref;
  ref.set_name("web");
  const auto shown =
      Await(rpc::CallUnary(stub_->async(), &ImageAsync::GetImage, ref, milliseconds(60'000)));
  ASSERT_TRUE(shown.ok());
  EXPECT_EQ(shown->id(), image->id());
  EXPECT_TRUE(
      Await(rpc::CallUnary(stub_->async(), &ImageAsync::RemoveImage, ref, milliseconds(60'000)))
          .ok());
  const auto gone =
      Await(rpc::CallUnary(stub_->async(), &ImageAsync::GetImage, ref, milliseconds(60'000)));
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(rpc::ReasonOf(gone.status()), "no_such_image");
}

TEST_F(ImageServiceTest, AConversationThatIsNoneIsRefused) {
  ImportClient headless =
      rpc::OpenBidi(io_.get_executor(), stub_->async(), &ImageAsync::ImportImage);
  headless->Write(Data("x"));
  EXPECT_THAT(std::string(Finish(headless).message()), HasSubstr("must be the header"));
  ImportClient huge = Open("web");
  huge->Write(Data(std::string((1 << 20) + 1, 'x')));
  EXPECT_EQ(Finish(huge).code(), absl::StatusCode::kInvalidArgument);
  // Nobody said that it was whole.
  ImportClient cut = Open("web");
  cut->Write(Data("x"));
  cut->WritesDone();
  EXPECT_EQ(Finish(cut).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Count(), 0u);
  EXPECT_TRUE(runner_.commands.empty());
}

TEST_F(ImageServiceTest, AClientThatSaysNothingIsNotWaitedForAndTakesNobodysPlace) {
  ImportClient silent = rpc::OpenBidi(io_.get_executor(), stub_->async(), &ImageAsync::ImportImage);
  ImportClient other = Open("web");
  other->Write(End());
  EXPECT_TRUE(Finish(other).ok());
  silent->Cancel();
  EXPECT_FALSE(Finish(silent).ok());
  Stop();
  Serve({.imports = 1, .patience = milliseconds(1)});
  ImportClient headless =
      rpc::OpenBidi(io_.get_executor(), stub_->async(), &ImageAsync::ImportImage);
  EXPECT_EQ(Finish(headless).code(), absl::StatusCode::kDeadlineExceeded);
  // Whether it waits for the header or for what follows it.
  ImportClient idle = Open("web");
  EXPECT_EQ(Finish(idle).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(TempFiles(), ::testing::IsEmpty());
}

TEST_F(ImageServiceTest, AnImportIsAJob) {
  runner_.gate().Reset();
  ImportClient call = Open("web");
  call->Write(Data("archive"));
  call->Write(End());
  Until([this] { return !runner_.commands.empty(); });
  EXPECT_EQ(Only().kind(), v1::JOB_KIND_IMPORT);
  EXPECT_EQ(Only().what(), "image web");
  EXPECT_EQ(Only().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Only().progress().phase(), "receiving");
  EXPECT_EQ(Only().progress().done(), 7u);
  EXPECT_TRUE(Only().cancellable());
  runner_.gate().Set();
  EXPECT_TRUE(Finish(call).ok());
  EXPECT_EQ(Only().state(), v1::JOB_STATE_DONE);
  EXPECT_THAT(Only().result(), HasSubstr("web:latest"));
  EXPECT_EQ(Only().progress().phase(), "storing");
}

TEST_F(ImageServiceTest, AnImportThatIsCancelledLeavesNothing) {
  runner_.gate().Reset();
  ImportClient call = Open("web");
  call->Write(End());
  Until([this] { return !runner_.commands.empty(); });
  EXPECT_TRUE(Await(jobs_.CancelJob(Only().id())).ok());
  EXPECT_EQ(Finish(call).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Only().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Count(), 0u);
}

TEST_F(ImageServiceTest, AnImportWhoseClientGoesAwayIsAJobThatFailed) {
  ImportClient call = Open("web");
  call->Write(Data("archive"));
  Until([this] { return !jobs_.ListJobs().empty(); });
  call->Cancel();
  EXPECT_FALSE(Finish(call).ok());
  Until([this] { return HasEnded(jobs_.ListJobs().front()); });
  EXPECT_EQ(Only().state(), v1::JOB_STATE_FAILED);
}

TEST_F(ImageServiceTest, MoreImportsThanAllowedAreRefusedUntilOneEnds) {
  runner_.gate().Reset();
  ImportClient first = Open("web");
  first->Write(End());
  Until([this] { return !runner_.commands.empty(); });
  ImportClient second = Open("other");
  const absl::Status busy = Finish(second);
  EXPECT_EQ(busy.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rpc::ReasonOf(busy), "too_many_imports");
  runner_.gate().Set();
  EXPECT_TRUE(Finish(first).ok());
  ImportClient third = Open("other");
  third->Write(End());
  EXPECT_TRUE(Finish(third).ok());
}

}  // namespace
}  // namespace ferry::vm
