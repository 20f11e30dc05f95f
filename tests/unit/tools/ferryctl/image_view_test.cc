#include "tools/ferryctl/image_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;

v1::Image Sample() {
  v1::Image image;
  image.set_name("web:1");
  image.set_id("sha256:0123456789abcdef0123456789abcdef");
  image.set_kind(v1::ARCHIVE_KIND_DOCKER);
  image.set_disk_bytes(3 << 20);
  image.mutable_config()->add_cmd("sh");
  image.mutable_config()->add_cmd("-c");
  image.mutable_config()->add_env("A=\x1b[31m");
  image.add_layers()->set_digest("sha256:lowest");
  image.add_layers()->set_digest("sha256:topmost");
  return image;
}

TEST(ImageViewTest, ATableHasALineForEachImage) {
  v1::ListImagesResponse response;
  *response.add_images() = Sample();
  EXPECT_EQ(ImageTable(response),
            "IMAGE   ID             LAYERS   SIZE      IMPORTED\n"
            "web:1   0123456789ab   2        3.0 MiB   -\n");
}

TEST(ImageViewTest, DetailsNameTheLayersLowestFirstAndSteerNoTerminal) {
  const std::string text = ImageDetails(Sample());
  EXPECT_THAT(text, HasSubstr("From:            docker save\n"));
  EXPECT_THAT(text, HasSubstr("Command:         sh -c\n"));
  EXPECT_THAT(text, HasSubstr("Env:             A=?[31m\n"));
  EXPECT_THAT(text, HasSubstr("User:            -\n"));
  EXPECT_LT(text.find("sha256:lowest"), text.find("sha256:topmost"));
}

TEST(ImageViewTest, ProgressSaysWhatIsDoneAndOfHowMuch) {
  v1::ImportImageResponse::Progress progress;
  progress.set_step(v1::ImportImageResponse::STEP_RECEIVING);
  progress.set_done(1 << 20);
  EXPECT_EQ(ImportProgressLine(progress), "sending: 1.0 MiB");
  progress.set_of(4 << 20);
  EXPECT_EQ(ImportProgressLine(progress), "sending: 1.0 MiB of 4.0 MiB");
  progress.set_step(v1::ImportImageResponse::STEP_BUILDING);
  progress.set_done(1);
  progress.set_of(2);
  EXPECT_EQ(ImportProgressLine(progress), "making layers: 1 of 2");
  EXPECT_EQ(ImportedLine(Sample()), "Imported web:1: 2 layers, 3.0 MiB\n");
}

TEST(ImageViewTest, NoNameSteersTheTerminal) {
  v1::Image image = Sample();
  image.set_name("web\u009b31m:1\x1b[31m");
  EXPECT_THAT(ImportedLine(image), HasSubstr("Imported web?31m:1?[31m: "));
  v1::ListImagesResponse response;
  *response.add_images() = image;
  EXPECT_THAT(ImageTable(response), HasSubstr("web?31m:1?[31m "));
}

}  // namespace
}  // namespace ferry::ctl
