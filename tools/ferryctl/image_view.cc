#include "tools/ferryctl/image_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

constexpr size_t kShortDigest = 12;

// Its first digits.
std::string ShortDigest(const std::string& digest) {
  const size_t colon = digest.find(':');
  return digest.substr(colon == std::string::npos ? 0 : colon + 1, kShortDigest);
}

std::string Field(absl::string_view name, const std::string& value) {
  return absl::StrFormat("%-16s %s\n", absl::StrCat(name, ":"),
                         value.empty() ? "-" : Printable(value));
}

std::string KindWords(v1::ArchiveKind kind) {
  switch (kind) {
    case v1::ARCHIVE_KIND_OCI:
      return "OCI layout";
    case v1::ARCHIVE_KIND_DOCKER:
      return "docker save";
    case v1::ARCHIVE_KIND_ROOTFS:
      return "root file system";
    default:
      return "";
  }
}

std::string Layers(int count) { return absl::StrCat(count, count == 1 ? " layer" : " layers"); }

}  // namespace

std::string ImageTable(const v1::ListImagesResponse& response) {
  Table table({"IMAGE", "ID", "LAYERS", "SIZE", "IMPORTED"});
  for (const v1::Image& image : response.images()) {
    table.Add({Printable(image.name()), Printable(ShortDigest(image.id())),
               absl::StrCat(image.layers_size()), FormatSize(image.disk_bytes()),
               FormatTime(image.created_unix_ms())});
  }
  return table.ToString();
}

std::string ImageDetails(const v1::Image& image) {
  const v1::ImageConfig& config = image.config();
  std::string text = absl::StrCat(
      Field("Image", image.name()), Field("Id", image.id()),
      Field("Imported", FormatTime(image.created_unix_ms())),
      Field("From", KindWords(image.kind())), Field("Size", FormatSize(image.disk_bytes())),
      Field("Entrypoint", absl::StrJoin(config.entrypoint(), " ")),
      Field("Command", absl::StrJoin(config.cmd(), " ")),
      Field("Working dir", config.working_dir()), Field("User", config.user()),
      Field("Stop signal", config.stop_signal()));
  for (const std::string& variable : config.env()) absl::StrAppend(&text, Field("Env", variable));
  for (const auto& [name, value] : config.labels()) {
    absl::StrAppend(&text, Field("Label", absl::StrCat(name, "=", value)));
  }
  // The lowest first.
  for (const v1::ImageLayer& layer : image.layers()) {
    absl::StrAppend(
        &text, Field("Layer", absl::StrCat(layer.digest(), "  ", FormatSize(layer.disk_bytes()),
                                           ", ", layer.files(), " files")));
  }
  return text;
}

std::string ImportedLine(const v1::Image& image) {
  return absl::StrCat("Imported ", Printable(image.name()), ": ", Layers(image.layers_size()), ", ",
                      FormatSize(image.disk_bytes()), "\n");
}

std::string ImportProgressLine(const v1::ImportImageResponse::Progress& progress) {
  switch (progress.step()) {
    case v1::ImportImageResponse::STEP_RECEIVING:
      return progress.of() == 0 ? absl::StrCat("sending: ", FormatSize(progress.done()))
                                : absl::StrCat("sending: ", FormatSize(progress.done()), " of ",
                                               FormatSize(progress.of()));
    case v1::ImportImageResponse::STEP_BUILDING:
      return absl::StrCat("making layers: ", progress.done(), " of ", progress.of());
    case v1::ImportImageResponse::STEP_STORING:
      return "storing";
    default:
      return "";
  }
}

}  // namespace ferry::ctl
