#include "tools/ferryctl/disk_spec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace ferry::ctl {

absl::StatusOr<v1::DiskSpec> ParseDisk(absl::string_view text) {
  auto bad = [text](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk \"", text, "\": ", why, "; write name=N,file=F[,format=F][,ro]"));
  };
  v1::DiskSpec disk;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string value(pair.second);
    if (part == "ro") {
      disk.set_read_only(true);
    } else if (pair.first == "name") {
      disk.set_name(value);
    } else if (pair.first == "file") {
      disk.set_file(value);
    } else if (pair.first == "format") {
      if (value != "qcow2" && value != "raw") return bad("the format is qcow2 or raw");
      disk.set_format(value);
    } else {
      return bad(absl::StrCat("unknown part \"", part, "\""));
    }
  }
  if (disk.name().empty() || disk.file().empty()) return bad("name and file are needed");
  return disk;
}

absl::StatusOr<v1::ShareSpec> ParseShare(absl::string_view text) {
  v1::ShareSpec share;
  absl::string_view path = text;
  share.set_read_only(absl::ConsumeSuffix(&path, ":ro"));
  if (!share.read_only()) absl::ConsumeSuffix(&path, ":rw");
  if (path.empty() || path[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("share \"", text, "\" is not of the form DIR[:ro], with an absolute path"));
  }
  share.set_host_path(std::string(path));
  return share;
}

}  // namespace ferry::ctl
