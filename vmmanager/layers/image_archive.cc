#include "vmmanager/layers/image_archive.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/json_reader.h"

namespace ferry::layers {
namespace {

constexpr char kArchitecture[] = "amd64";
constexpr char kOs[] = "linux";
constexpr int kMaxIndexDepth = 3;
constexpr char kRefName[] = "org.opencontainers.image.ref.name";

// A reference from one document to another file.
struct Descriptor {
  std::string media_type;
  std::string digest;
  std::string name;  // that somebody gave it; may be empty
  std::string architecture;
  std::string os;
};

absl::Status NotWhole(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the image is not whole: ", why));
}

std::string BlobPath(const std::string& digest) {
  return absl::StrCat("blobs/sha256/", absl::StripPrefix(digest, "sha256:"));
}

absl::StatusOr<Descriptor> ToDescriptor(const boost::json::object& json) {
  Descriptor descriptor;
  ASSIGN_OR_RETURN(descriptor.media_type, StringAt(json, "mediaType"));
  ASSIGN_OR_RETURN(descriptor.digest, StringAt(json, "digest"));
  if (!IsDigest(descriptor.digest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", Shown(descriptor.digest), "\" is no SHA-256 digest"));
  }
  ASSIGN_OR_RETURN(const auto annotations, StringMapAt(json, "annotations"));
  if (const auto name = annotations.find(kRefName); name != annotations.end()) {
    descriptor.name = name->second;
  }
  ASSIGN_OR_RETURN(const auto platform, ObjectAt(json, "platform"));
  ASSIGN_OR_RETURN(descriptor.architecture, StringAt(platform, "architecture"));
  ASSIGN_OR_RETURN(descriptor.os, StringAt(platform, "os"));
  return descriptor;
}

absl::Status CheckDigest(absl::string_view text, const std::string& digest,
                         absl::string_view what) {
  Sha256 hash;
  hash.Update(absl::MakeConstSpan(text.data(), text.size()));
  const std::string found = hash.Finish();
  if (found == digest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has the digest ", found, ", not ", digest));
}

absl::StatusOr<std::string> ReadBlob(const BlobArchive& archive, const std::string& digest,
                                     const Limits& limits, absl::string_view what) {
  const absl::StatusOr<std::string> text = archive.ReadAll(BlobPath(digest), limits.document_bytes);
  if (absl::IsNotFound(text.status())) return NotWhole(text.status().message());
  RETURN_IF_ERROR(text.status());
  RETURN_IF_ERROR(CheckDigest(*text, digest, what));
  return *text;
}

bool IsIndex(const Descriptor& descriptor) {
  return descriptor.media_type == "application/vnd.oci.image.index.v1+json" ||
         descriptor.media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

// Images of other machines, and what is no image (its platform is "unknown").
bool IsForeign(const Descriptor& descriptor) {
  return !descriptor.architecture.empty() &&
         (descriptor.architecture != kArchitecture || descriptor.os != kOs);
}

absl::Status ForAnotherMachine(absl::string_view os, absl::string_view architecture) {
  return absl::InvalidArgumentError(absl::StrCat("the image is for ", Shown(os), "/",
                                                 Shown(architecture), ", and VMs are ", kOs, "/",
                                                 kArchitecture));
}

// The one manifest that an index leads to.
absl::StatusOr<Descriptor> ChooseManifest(const std::vector<boost::json::object>& manifests) {
  std::vector<Descriptor> fitting;
  std::vector<std::string> names;
  Descriptor foreign;
  for (const boost::json::object& json : manifests) {
    ASSIGN_OR_RETURN(const Descriptor descriptor, ToDescriptor(json));
    if (IsForeign(descriptor)) {
      if (descriptor.os != "unknown") foreign = descriptor;
      continue;
    }
    names.push_back(Shown(descriptor.name.empty() ? descriptor.digest : descriptor.name));
    fitting.push_back(descriptor);
  }
  if (fitting.empty() && !foreign.digest.empty()) {
    return ForAnotherMachine(foreign.os, foreign.architecture);
  }
  if (fitting.empty()) return NotWhole("its index names no image");
  const bool same = std::all_of(fitting.begin(), fitting.end(), [&](const Descriptor& one) {
    return one.digest == fitting.front().digest;
  });
  if (same) return fitting.front();
  return absl::InvalidArgumentError(absl::StrCat("the archive holds several images (",
                                                 absl::StrJoin(names, ", "),
                                                 "); import one with just the one you want"));
}

absl::Status CheckMachine(const ImageConfig& config) {
  const bool fits = (config.architecture.empty() || config.architecture == kArchitecture) &&
                    (config.os.empty() || config.os == kOs);
  return fits ? absl::OkStatus() : ForAnotherMachine(config.os, config.architecture);
}

// Gives the layers their diff ids, which are in their order.
absl::Status Match(const OciConfig& config, const Limits& limits, ImageParts* parts) {
  RETURN_IF_ERROR(CheckMachine(config.config));
  if (config.diff_ids.size() != parts->layers.size()) {
    return NotWhole(absl::StrCat("it has ", parts->layers.size(),
                                 " layers, and its configuration names ", config.diff_ids.size()));
  }
  if (parts->layers.empty()) return NotWhole("it has no layers");
  if (parts->layers.size() > limits.layers) {
    return absl::ResourceExhaustedError(absl::StrCat("the image has ", parts->layers.size(),
                                                     " layers; ", limits.layers, " are allowed"));
  }
  for (size_t i = 0; i < parts->layers.size(); ++i) {
    parts->layers[i].diff_id = config.diff_ids[i];
  }
  parts->config = config.config;
  return absl::OkStatus();
}

absl::Status CheckLayerType(const Descriptor& layer) {
  if (absl::StrContains(layer.media_type, "foreign") ||
      absl::StrContains(layer.media_type, "nondistributable") ||
      absl::StrContains(layer.media_type, "encrypted") ||
      !absl::StrContains(layer.media_type, ".tar")) {
    return absl::InvalidArgumentError(absl::StrCat("the image has a layer of the type \"",
                                                   Shown(layer.media_type),
                                                   "\", which is not understood"));
  }
  return absl::OkStatus();
}

// The document by its digest, if its name is one: docker calls them "<digest>.json".
absl::Status CheckDockerConfig(const std::string& path, absl::string_view text) {
  absl::string_view name = path;
  if (const size_t slash = name.rfind('/'); slash != absl::string_view::npos) {
    name.remove_prefix(slash + 1);
  }
  const std::string digest = absl::StrCat("sha256:", absl::StripSuffix(name, ".json"));
  if (!IsDigest(digest)) return absl::OkStatus();
  return CheckDigest(text, digest, "the image's configuration");
}

}  // namespace

bool IsOciLayout(const BlobArchive& archive) {
  return archive.Has("oci-layout") && archive.Has("index.json");
}

bool IsDockerArchive(const BlobArchive& archive) { return archive.Has("manifest.json"); }

absl::StatusOr<ImageParts> FindOciImage(const BlobArchive& archive, const Limits& limits) {
  if (!IsOciLayout(archive)) {
    return absl::InvalidArgumentError("it is no OCI layout: oci-layout or index.json is missing");
  }
  ASSIGN_OR_RETURN(std::string text, archive.ReadAll("index.json", limits.document_bytes));
  Descriptor manifest;
  for (int depth = 0; depth == 0 || IsIndex(manifest); ++depth) {
    if (depth > kMaxIndexDepth) return NotWhole("its indexes lead to one another");
    ASSIGN_OR_RETURN(const auto index, ParseObject(text, "the image's index"));
    ASSIGN_OR_RETURN(const auto manifests, ObjectsAt(index, "manifests"));
    ASSIGN_OR_RETURN(manifest, ChooseManifest(manifests));
    ASSIGN_OR_RETURN(text, ReadBlob(archive, manifest.digest, limits, "the image's manifest"));
  }
  ASSIGN_OR_RETURN(const auto document, ParseObject(text, "the image's manifest"));
  ASSIGN_OR_RETURN(const auto config_json, ObjectAt(document, "config"));
  ASSIGN_OR_RETURN(const Descriptor config, ToDescriptor(config_json));
  ASSIGN_OR_RETURN(const std::string config_text,
                   ReadBlob(archive, config.digest, limits, "the image's configuration"));
  ASSIGN_OR_RETURN(const OciConfig parsed, ParseOciConfig(config_text));
  ImageParts parts;
  ASSIGN_OR_RETURN(const auto layers, ObjectsAt(document, "layers"));
  for (const auto& json : layers) {
    ASSIGN_OR_RETURN(const Descriptor layer, ToDescriptor(json));
    RETURN_IF_ERROR(CheckLayerType(layer));
    parts.layers.push_back({BlobPath(layer.digest), layer.digest, ""});
  }
  RETURN_IF_ERROR(Match(parsed, limits, &parts));
  return parts;
}

absl::StatusOr<ImageParts> FindDockerImage(const BlobArchive& archive, const Limits& limits) {
  if (!IsDockerArchive(archive)) {
    return absl::InvalidArgumentError("it is no archive of docker save: manifest.json is missing");
  }
  ASSIGN_OR_RETURN(const std::string text, archive.ReadAll("manifest.json", limits.document_bytes));
  ASSIGN_OR_RETURN(const auto images, ParseArray(text, "manifest.json"));
  if (images.size() != 1 || !images.front().is_object()) {
    std::vector<std::string> names;
    for (const auto& image : images) {
      if (!image.is_object()) continue;
      ASSIGN_OR_RETURN(const auto tags, StringsAt(image.get_object(), "RepoTags"));
      for (const std::string& tag : tags) names.push_back(Shown(tag));
    }
    return absl::InvalidArgumentError(absl::StrCat("the archive holds ", images.size(), " images (",
                                                   absl::StrJoin(names, ", "),
                                                   "); save just the one you want"));
  }
  const boost::json::object& image = images.front().get_object();
  ASSIGN_OR_RETURN(const std::string config_path, StringAt(image, "Config"));
  const auto config_text = archive.ReadAll(config_path, limits.document_bytes);
  if (absl::IsNotFound(config_text.status())) return NotWhole(config_text.status().message());
  RETURN_IF_ERROR(config_text.status());
  RETURN_IF_ERROR(CheckDockerConfig(config_path, *config_text));
  ASSIGN_OR_RETURN(const OciConfig parsed, ParseOciConfig(*config_text));
  ImageParts parts;
  ASSIGN_OR_RETURN(const auto layers, StringsAt(image, "Layers"));
  for (const std::string& path : layers) parts.layers.push_back({path, "", ""});
  RETURN_IF_ERROR(Match(parsed, limits, &parts));
  return parts;
}

}  // namespace ferry::layers
