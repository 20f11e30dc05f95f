#include "vmmanager/qemu/migration_settings_mirror.h"

#include <boost/json/array.hpp>
#include <utility>

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr char kList[] = "capabilities";

}  // namespace

json::object MigrationSettingsMirror::CapabilityChanges(const json::object& wanted) const {
  json::array changes;
  for (const json::value& item : wanted.at(kList).as_array()) {
    const json::value* known =
        capabilities_.if_contains(item.as_object().at("capability").as_string());
    if (known == nullptr || *known != item.as_object().at("state")) changes.push_back(item);
  }
  if (changes.empty()) return {};
  return {{kList, std::move(changes)}};
}

json::object MigrationSettingsMirror::ParameterChanges(const json::object& wanted) const {
  json::object changes;
  for (const auto& [name, value] : wanted) {
    const json::value* known = parameters_.if_contains(name);
    if (known == nullptr || *known != value) changes[name] = value;
  }
  return changes;
}

void MigrationSettingsMirror::NoteCapabilities(const json::object& arguments) {
  for (const json::value& item : arguments.at(kList).as_array()) {
    capabilities_[item.as_object().at("capability").as_string()] = item.as_object().at("state");
  }
}

void MigrationSettingsMirror::NoteParameters(const json::object& arguments) {
  for (const auto& [name, value] : arguments) parameters_[name] = value;
}

void MigrationSettingsMirror::Forget() {
  capabilities_.clear();
  parameters_.clear();
}

}  // namespace ferry::vm
