#include "vmmanager/qemu/cpu_models.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <memory>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_probe.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// Without any features; QEMU's own starting point for others, not for VMs.
constexpr char kEmptyModel[] = "base";

const json::value* Member(const json::value* value, const char* key) {
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  return object == nullptr ? nullptr : object->if_contains(key);
}

Task<absl::StatusOr<std::vector<CpuModel>>> AskForModels(QmpClient* qmp) {
  CO_ASSIGN_OR_RETURN(const json::value definitions,
                      co_await qmp->Execute("query-cpu-definitions"));
  std::vector<CpuModel> models = CpuModelsFrom(definitions);
  for (CpuModel& model : models) {
    if (!IsHostDependent(model.name) || !model.missing_features.empty()) continue;
    json::object arguments = {{"type", "static"}, {"model", {{"name", model.name}}}};
    CO_ASSIGN_OR_RETURN(const json::value expansion,
                        co_await qmp->Execute("query-cpu-model-expansion", std::move(arguments)));
    model.host_features = FeaturesFrom(expansion);
  }
  co_return models;
}

}  // namespace

Task<absl::StatusOr<std::vector<CpuModel>>> ProbeCpuModels(std::string binary,
                                                           std::string accelerator) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<QemuProbe> probe,
                      co_await QemuProbe::Launch(std::move(binary), std::move(accelerator)));
  absl::StatusOr<std::vector<CpuModel>> models = co_await AskForModels(&probe->qmp());
  co_await probe->End();
  co_return models;
}

bool IsHostDependent(const std::string& cpu_model) {
  return cpu_model == "max" || cpu_model == "host";
}

std::vector<CpuModel> CpuModelsFrom(const json::value& definitions) {
  std::vector<CpuModel> models;
  const json::array* list = definitions.if_array();
  if (list == nullptr) return models;
  for (const json::value& item : *list) {
    CpuModel model;
    model.name = TextOf(Member(&item, "name"));
    if (model.name.empty() || model.name == kEmptyModel) continue;
    const json::value* missing = Member(&item, "unavailable-features");
    if (const json::array* features = missing == nullptr ? nullptr : missing->if_array()) {
      for (const json::value& feature : *features) {
        model.missing_features.push_back(TextOf(&feature));
      }
    }
    models.push_back(std::move(model));
  }
  std::sort(models.begin(), models.end(),
            [](const CpuModel& a, const CpuModel& b) { return a.name < b.name; });
  return models;
}

std::vector<std::string> FeaturesFrom(const json::value& expansion) {
  std::vector<std::string> features;
  const json::value* properties = Member(Member(&expansion, "model"), "props");
  const json::object* all = properties == nullptr ? nullptr : properties->if_object();
  if (all == nullptr) return features;
  for (const auto& [name, value] : *all) {
    if (value.is_bool() && value.get_bool()) features.emplace_back(name.data(), name.size());
  }
  std::sort(features.begin(), features.end());
  return features;
}

}  // namespace ferry::vm
