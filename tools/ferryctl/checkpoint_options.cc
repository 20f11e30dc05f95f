#include "tools/ferryctl/checkpoint_options.h"

#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::ctl {

absl::StatusOr<v1::CheckpointDiskWish> ParseDiskWish(absl::string_view text) {
  auto bad = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "disk \"", text, "\": ", why, "; write NAME[,snapshot=no|external][,file=PATH]"));
  };
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ',');
  if (parts.front().empty() || absl::StrContains(parts.front(), '=')) {
    return bad("the disk's name comes first");
  }
  v1::CheckpointDiskWish wish;
  wish.set_name(std::string(parts.front()));
  std::optional<absl::string_view> snapshot, file;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    if (pair.first != "snapshot" && pair.first != "file") {
      return bad(absl::StrCat("unknown part \"", parts[i], "\""));
    }
    std::optional<absl::string_view>& value = pair.first == "file" ? file : snapshot;
    if (value) return bad(absl::StrCat(pair.first, "= is there twice"));
    value = pair.second;
  }
  if (snapshot == "internal") {
    return absl::InvalidArgumentError(
        absl::StrCat("disk \"", text,
                     "\": what is kept inside of disks is a snapshot, and not a checkpoint; take "
                     "one with: ferryctl snapshot save"));
  }
  if (snapshot && snapshot != "no" && snapshot != "external") {
    return bad("snapshot= is no or external");
  }
  wish.set_left_out(snapshot == "no");
  if (!file) return wish;
  if (wish.left_out()) return bad("a disk that is left out goes on in the file that it has");
  if (!absl::StartsWith(*file, "/")) {
    return bad("file= is an absolute path; it names a file on the VM's host");
  }
  wish.set_file(std::string(*file));
  return wish;
}

absl::StatusOr<std::vector<v1::CheckpointDiskWish>> ParseDiskWishes(
    const std::vector<std::string>& texts) {
  std::vector<v1::CheckpointDiskWish> wishes;
  std::set<std::string> names;
  for (const std::string& text : texts) {
    ASSIGN_OR_RETURN(v1::CheckpointDiskWish wish, ParseDiskWish(text));
    if (!names.insert(wish.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat("disk \"", wish.name(), "\" is named twice"));
    }
    wishes.push_back(std::move(wish));
  }
  return wishes;
}

}  // namespace ferry::ctl
