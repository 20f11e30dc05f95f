#include "vmmanager/images/image.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/layers/json_reader.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint64_t kImageVersion = 1;

absl::StatusOr<json::object> ParseRecord(absl::string_view text, absl::string_view what) {
  ASSIGN_OR_RETURN(json::object document, layers::ParseObject(text, what));
  ASSIGN_OR_RETURN(const uint64_t version, layers::NumberAt(document, "version"));
  if (version == kImageVersion) return document;
  return absl::InvalidArgumentError(
      absl::StrCat("it has the version ", version, ", and this ferryd knows ", kImageVersion));
}

absl::Status CheckDigests(const std::vector<std::string>& digests) {
  for (const std::string& digest : digests) {
    if (!layers::IsDigest(digest)) return absl::InvalidArgumentError("it has no valid digest");
  }
  return absl::OkStatus();
}

json::array LayersToJson(const std::vector<ImageLayer>& layers) {
  json::array array;
  for (const ImageLayer& layer : layers) {
    array.push_back(json::object{{"digest", layer.digest},
                                 {"diff_id", layer.diff_id},
                                 {"disk_size", layer.disk_size},
                                 {"file_bytes", layer.file_bytes},
                                 {"entries", layer.entries}});
  }
  return array;
}

}  // namespace

std::string ImageId(const layers::ImageConfig& config, const std::vector<ImageLayer>& layers) {
  const std::string text = json::serialize(
      json::object{{"config", layers::ToJson(config)}, {"layers", LayersToJson(layers)}});
  layers::Sha256 hash;
  hash.Update(text);
  return hash.Finish();
}

std::string ToJsonText(const Image& image) {
  return json::serialize(json::object{{"version", kImageVersion},
                                      {"name", image.name},
                                      {"id", image.id},
                                      {"kind", layers::ArchiveKindName(image.kind)},
                                      {"config", layers::ToJson(image.config)},
                                      {"layers", LayersToJson(image.layers)},
                                      {"created_unix_ms", image.created_unix_ms}});
}

absl::StatusOr<Image> ImageFromJson(absl::string_view text) {
  ASSIGN_OR_RETURN(const auto document, ParseRecord(text, "the image's file"));
  Image image;
  ASSIGN_OR_RETURN(image.name, layers::StringAt(document, "name"));
  ASSIGN_OR_RETURN(image.id, layers::StringAt(document, "id"));
  ASSIGN_OR_RETURN(const std::string kind, layers::StringAt(document, "kind"));
  ASSIGN_OR_RETURN(image.kind, layers::ParseArchiveKind(kind));
  ASSIGN_OR_RETURN(const auto config, layers::ObjectAt(document, "config"));
  ASSIGN_OR_RETURN(image.config, layers::ConfigFromJson(config));
  ASSIGN_OR_RETURN(image.created_unix_ms, layers::NumberAt(document, "created_unix_ms"));
  ASSIGN_OR_RETURN(const auto layers, layers::ObjectsAt(document, "layers"));
  for (const json::object& item : layers) {
    ImageLayer layer;
    ASSIGN_OR_RETURN(layer.digest, layers::StringAt(item, "digest"));
    ASSIGN_OR_RETURN(layer.diff_id, layers::StringAt(item, "diff_id"));
    ASSIGN_OR_RETURN(layer.disk_size, layers::NumberAt(item, "disk_size"));
    ASSIGN_OR_RETURN(layer.file_bytes, layers::NumberAt(item, "file_bytes"));
    ASSIGN_OR_RETURN(layer.entries, layers::NumberAt(item, "entries"));
    RETURN_IF_ERROR(CheckDigests({layer.digest, layer.diff_id}));
    image.layers.push_back(std::move(layer));
  }
  if (image.id != ImageId(image.config, image.layers)) {
    return absl::InvalidArgumentError("its content does not fit its id");
  }
  return image;
}

std::string ToJsonText(const ImagePin& pin) {
  return json::serialize(json::object{{"version", kImageVersion},
                                      {"owner", pin.owner},
                                      {"image_ids", json::value_from(pin.image_ids)},
                                      {"layers", json::value_from(pin.layers)}});
}

absl::StatusOr<ImagePin> PinFromJson(absl::string_view text) {
  ASSIGN_OR_RETURN(const auto document, ParseRecord(text, "the pin's file"));
  ImagePin pin;
  ASSIGN_OR_RETURN(pin.owner, layers::StringAt(document, "owner"));
  ASSIGN_OR_RETURN(pin.image_ids, layers::StringsAt(document, "image_ids"));
  ASSIGN_OR_RETURN(pin.layers, layers::StringsAt(document, "layers"));
  RETURN_IF_ERROR(CheckDigests(pin.image_ids));
  RETURN_IF_ERROR(CheckDigests(pin.layers));
  return pin;
}

}  // namespace ferry::vm
