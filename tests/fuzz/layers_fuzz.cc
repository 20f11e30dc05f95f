// An archive of an image that somebody made to harm, in ferry-layers.

#include <fcntl.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/unique_fd.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/unit/vmmanager/layers/memory_file.h"
#include "tests/unit/vmmanager/layers/tar_maker.h"
#include "vmmanager/layers/image_builder.h"

namespace ferry::fuzz {
namespace {

// An empty folder, as long as it lives.
class OutputFolder {
 public:
  OutputFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "ferry-fuzz-XXXXXX";
    Check(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
    fd_.Reset(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    Check(fd_.valid());
  }
  ~OutputFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  int fd() const { return fd_.get(); }
  bool Has(const std::string& name) const { return std::filesystem::exists(path_ + "/" + name); }

 private:
  std::string path_;
  UniqueFd fd_;
};

layers::Limits SmallLimits() {
  layers::Limits limits;
  limits.bytes = 1 << 20;
  limits.entries = 200;
  limits.layers = 4;
  limits.document_bytes = 1 << 16;
  return limits;
}

void Import(layers::ArchiveKind kind, const std::string& archive) {
  const OutputFolder output;
  const UniqueFd source = layers::MemoryFile(archive);
  const auto image = layers::BuildImage(source.get(), kind, SmallLimits(), output.fd(),
                                        [](size_t done, size_t of) { Check(done <= of); });
  if (!image.ok()) return;
  for (const auto& layer : image->layers) Check(output.Has(layer.file));
  const auto again = layers::BuiltImageFromJson(layers::ToJsonText(*image), SmallLimits());
  Check(again.ok() && again->config == image->config);
}

}  // namespace

std::vector<std::string> Seeds() {
  using layers::TarMaker;
  const std::string layer = TarMaker()
                                .Folder("d")
                                .File("d/f", std::string(700, 'f'))
                                .Pax({{"SCHILY.xattr.user.note", "hello"}, {"mtime", "1.5"}})
                                .File("d/.wh.g", "")
                                .File("d/.wh..wh..opq", "")
                                .Symlink("l", "d/f")
                                .HardLink("h", "d/f")
                                .Hole("z", 5000)
                                .Bytes();
  const std::string config =
      absl::StrCat(R"({"os":"linux","architecture":"amd64","config":{"Cmd":["x"]},)",
                   R"("rootfs":{"diff_ids":[")", layers::DigestOf(layer), R"("]}})");
  const std::string docker =
      TarMaker()
          .File("c.json", config)
          .File("l.tar", layer)
          .File("manifest.json", R"([{"Config":"c.json","Layers":["l.tar"]}])")
          .Bytes();
  std::vector<std::string> seeds;
  for (const std::string& archive : {layer, docker, layers::Packed(docker, "gzip")}) {
    seeds.push_back(std::string(1, '\0') + archive);
    seeds.push_back(std::string(1, '\1') + archive);
  }
  return seeds;
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  // As ferry-layers has it.
  static const bool utf8 = std::setlocale(LC_ALL, "C.UTF-8") != nullptr;
  Check(utf8);
  Input input(data, size);
  const uint8_t how = input.Byte();
  std::string archive(input.Rest());
  if (how % 2 == 1) ferry::layers::RepairSums(&archive);
  using ferry::layers::ArchiveKind;
  Import(how % 4 < 2 ? ArchiveKind::kAny : ArchiveKind::kRootfs, archive);
  return 0;
}
