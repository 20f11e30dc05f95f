#include "vmmanager/qemu/migration_settings_mirror.h"

#include <boost/json/array.hpp>
#include <utility>

#include "vmmanager/qemu/json_text.h"

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
    const json::value& state = item.as_object().at("state");
    // The one that runs may be older than the one that was probed.
    const bool lacks = known == nullptr && !capabilities_.empty();
    if (lacks && state.is_bool() && !state.get_bool()) continue;
    if (known == nullptr || *known != state) changes.push_back(item);
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

void MigrationSettingsMirror::ReadCapabilities(const json::value& reply) {
  const json::array* all = reply.if_array();
  for (size_t i = 0; all != nullptr && i < all->size(); ++i) {
    const json::object* each = (*all)[i].if_object();
    const json::value* state = each == nullptr ? nullptr : each->if_contains("state");
    if (state == nullptr || !state->is_bool()) continue;
    capabilities_[TextAt(*each, "capability")] = *state;
  }
}

void MigrationSettingsMirror::ReadParameters(const json::value& reply) {
  if (const json::object* all = reply.if_object()) NoteParameters(*all);
}

void MigrationSettingsMirror::Forget() {
  capabilities_.clear();
  parameters_.clear();
}

}  // namespace ferry::vm
