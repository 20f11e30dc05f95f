#include "tools/ferryd/yaml_config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace ferry::tools {
namespace {

// How many letters must be added, left out or changed to make one of the other.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

class YamlConfig final : public CLI::Config {
 public:
  explicit YamlConfig(const CLI::App& app) : app_(app) {}

  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    YAML::Node root;
    try {
      root = YAML::Load(input);
    } catch (const YAML::ParserException& error) {
      Fail(error.mark, absl::StrCat("this is no YAML: ", error.msg));
    }
    std::vector<CLI::ConfigItem> items;
    if (root.IsNull()) return items;
    if (!root.IsMap()) Fail(root.Mark(), "a configuration has `name: value` lines");
    std::set<std::string> seen;
    for (const auto& entry : root) {
      CLI::ConfigItem item = ReadItem(entry.first, entry.second);
      if (!seen.insert(item.name).second) {
        Fail(entry.first.Mark(), absl::StrCat("`", item.name, "` stands here a second time"));
      }
      items.push_back(std::move(item));
    }
    return items;
  }

 private:
  CLI::ConfigItem ReadItem(const YAML::Node& key, const YAML::Node& value) const {
    if (!key.IsScalar()) Fail(key.Mark(), "a key must be a name");
    CLI::ConfigItem item;
    item.name = key.Scalar();
    CheckName(item.name, key.Mark());
    if (value.IsScalar()) {
      item.inputs.push_back(value.Scalar());
      return item;
    }
    const bool list = value.IsSequence() && std::all_of(value.begin(), value.end(),
                                                        [](auto& one) { return one.IsScalar(); });
    if (!list) {
      Fail(key.Mark(), absl::StrCat("`", item.name, "` must have a value or a list of values"));
    }
    for (const auto& one : value) item.inputs.push_back(one.Scalar());
    return item;
  }

  void CheckName(const std::string& name, const YAML::Mark& mark) const {
    std::string nearest;
    for (const std::string& known : Names()) {
      if (known == name) return;
      if (nearest.empty() || EditDistance(name, known) < EditDistance(name, nearest)) {
        nearest = known;
      }
    }
    const bool near = EditDistance(name, nearest) <= std::max<size_t>(2, name.size() / 3);
    Fail(mark, absl::StrCat("unknown key `", name, "`",
                            near ? absl::StrCat("; did you mean `", nearest, "`?")
                                 : "; ferryd --help lists those there are"));
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : app_.get_options()) {
      // Those that only make sense on a command line.
      if (!option->get_configurable() || option == app_.get_config_ptr()) continue;
      for (const std::string& name : option->get_lnames()) names.push_back(name);
    }
    return names;
  }

  [[noreturn]] void Fail(const YAML::Mark& mark, const std::string& what) const {
    std::string file;
    const CLI::Option* config = app_.get_config_ptr();
    if (config != nullptr && !config->results().empty()) file = config->results().back();
    const std::string line = mark.is_null() ? "" : absl::StrCat(mark.line + 1, ": ");
    throw CLI::FileError(absl::StrCat(file, ":", line.empty() ? " " : line, what));
  }

  const CLI::App& app_;
};

}  // namespace

std::shared_ptr<CLI::Config> MakeYamlConfig(const CLI::App& app) {
  return std::make_shared<YamlConfig>(app);
}

}  // namespace ferry::tools
