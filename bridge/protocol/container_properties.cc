#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <iterator>

#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"

// GetProperties' answer about a container. The metrics have the names of containerd's cgroup v1
// metrics, which hcsshim's hosts read, whatever the guest's cgroups are.
namespace ferry::bridge {
namespace json = boost::json;
namespace {

constexpr size_t kMaxDevices = 256;
constexpr size_t kMaxLeases = 16;
constexpr const char* kStates[] = {"created", "running", "paused", "stopped"};

json::object TrafficEntry(const DeviceTraffic& device, const char* operation, uint64_t value) {
  return {{"op", operation},
          {"device", ""},
          {"major", device.major},
          {"minor", device.minor},
          {"value", value}};
}

json::object EncodeMetrics(const ContainerMetrics& metrics) {
  json::array bytes;
  json::array operations;
  for (const DeviceTraffic& device : metrics.io) {
    bytes.push_back(TrafficEntry(device, "read", device.read_bytes));
    bytes.push_back(TrafficEntry(device, "write", device.written_bytes));
    operations.push_back(TrafficEntry(device, "read", device.reads));
    operations.push_back(TrafficEntry(device, "write", device.writes));
  }
  return {{"pids", json::object{{"current", metrics.pids_current}, {"limit", metrics.pids_limit}}},
          {"cpu", json::object{{"usage", json::object{{"total", metrics.cpu_total},
                                                      {"kernel", metrics.cpu_kernel},
                                                      {"user", metrics.cpu_user}}},
                               {"throttling",
                                json::object{{"periods", metrics.cpu_periods},
                                             {"throttled_periods", metrics.cpu_throttled_periods},
                                             {"throttled_time", metrics.cpu_throttled_time}}}}},
          {"memory", json::object{{"cache", metrics.memory_file},
                                  {"rss", metrics.memory_anonymous},
                                  {"usage", json::object{{"limit", metrics.memory_limit},
                                                         {"usage", metrics.memory_usage},
                                                         {"max", metrics.memory_max},
                                                         {"failcnt", metrics.memory_failcnt}}}}},
          {"memory_oom_control", json::object{{"oom_kill", metrics.oom_kills}}},
          {"blkio", json::object{{"io_service_bytes_recursive", std::move(bytes)},
                                 {"io_serviced_recursive", std::move(operations)}}}};
}

// Adds one of the two lists to the devices; a device is found by its number.
void ReadTraffic(const FieldReader& in, const char* member, uint64_t DeviceTraffic::*read,
                 uint64_t DeviceTraffic::*write, std::vector<DeviceTraffic>* devices) {
  in.ObjectList(member, [&](const FieldReader& entry) {
    DeviceTraffic number;
    std::string operation;
    uint64_t value = 0;
    entry.Text("op", &operation);
    entry.U32("major", &number.major);
    entry.U32("minor", &number.minor);
    entry.U64("value", &value);
    DeviceTraffic* found = nullptr;
    for (DeviceTraffic& device : *devices) {
      if (device.major == number.major && device.minor == number.minor) found = &device;
    }
    if (found == nullptr && devices->size() >= kMaxDevices) {
      return in.Complain(member, "names too many devices");
    }
    if (found == nullptr) found = &devices->emplace_back(number);
    if (operation == "read") found->*read = value;
    if (operation == "write") found->*write = value;
  });
}

void ReadMetrics(const FieldReader& in, ContainerMetrics* out) {
  in.Object("pids", [out](const FieldReader& pids) {
    pids.U64("current", &out->pids_current);
    pids.U64("limit", &out->pids_limit);
  });
  in.Object("cpu", [out](const FieldReader& cpu) {
    cpu.Object("usage", [out](const FieldReader& usage) {
      usage.U64("total", &out->cpu_total);
      usage.U64("kernel", &out->cpu_kernel);
      usage.U64("user", &out->cpu_user);
    });
    cpu.Object("throttling", [out](const FieldReader& throttling) {
      throttling.U64("periods", &out->cpu_periods);
      throttling.U64("throttled_periods", &out->cpu_throttled_periods);
      throttling.U64("throttled_time", &out->cpu_throttled_time);
    });
  });
  in.Object("memory", [out](const FieldReader& memory) {
    memory.U64("cache", &out->memory_file);
    memory.U64("rss", &out->memory_anonymous);
    memory.Object("usage", [out](const FieldReader& usage) {
      usage.U64("limit", &out->memory_limit);
      usage.U64("usage", &out->memory_usage);
      usage.U64("max", &out->memory_max);
      usage.U64("failcnt", &out->memory_failcnt);
    });
  });
  in.Object("memory_oom_control",
            [out](const FieldReader& oom) { oom.U64("oom_kill", &out->oom_kills); });
  in.Object("blkio", [out](const FieldReader& io) {
    ReadTraffic(io, "io_service_bytes_recursive", &DeviceTraffic::read_bytes,
                &DeviceTraffic::written_bytes, &out->io);
    ReadTraffic(io, "io_serviced_recursive", &DeviceTraffic::reads, &DeviceTraffic::writes,
                &out->io);
  });
}

void ReadState(const FieldReader& in, ContainerProperties* out) {
  std::string name;
  in.Text("State", &name);
  for (size_t i = 0; i < std::size(kStates); ++i) {
    if (name == kStates[i]) out->state = static_cast<ContainerState>(i);
  }
  if (!out->state.has_value()) in.Complain("State", "is none that is known");
}

json::array EncodeLeases(const std::vector<NetworkLease>& leases) {
  json::array list;
  for (const NetworkLease& lease : leases) {
    json::array names;
    for (const std::string& server : lease.name_servers) names.emplace_back(server);
    list.push_back(json::object{{"ID", lease.id},
                                {"Address", lease.address},
                                {"Gateway", lease.gateway},
                                {"NameServers", std::move(names)},
                                {"Server", lease.server}});
  }
  return list;
}

void ReadLeases(const FieldReader& in, std::vector<NetworkLease>* leases) {
  in.ObjectList("NetworkLeases", [&](const FieldReader& entry) {
    if (leases->size() >= kMaxLeases) return in.Complain("NetworkLeases", "has too many entries");
    NetworkLease& lease = leases->emplace_back();
    entry.Text("ID", &lease.id);
    entry.Text("Address", &lease.address);
    entry.Text("Gateway", &lease.gateway);
    entry.TextList("NameServers", &lease.name_servers);
    entry.Text("Server", &lease.server);
  });
}

}  // namespace

const char* ContainerStateName(ContainerState state) { return kStates[static_cast<int>(state)]; }

std::string Encode(const ContainerProperties& properties) {
  json::object out;
  if (properties.process_list.has_value()) {
    json::array list;
    for (const ListProcessesResponse::Entry& entry : *properties.process_list) {
      list.push_back(json::object{{"ProcessId", entry.process_id}, {"Exited", entry.exited}});
    }
    out["ProcessList"] = std::move(list);
  }
  if (properties.metrics.has_value()) out["LCOWMetrics"] = EncodeMetrics(*properties.metrics);
  if (properties.state.has_value()) out["State"] = ContainerStateName(*properties.state);
  if (properties.network_leases.has_value()) {
    out["NetworkLeases"] = EncodeLeases(*properties.network_leases);
  }
  return json::serialize(out);
}

template <>
absl::StatusOr<ContainerProperties> Decode(std::string_view text) {
  ASSIGN_OR_RETURN(const json::object object, ParseObject(text));
  ContainerProperties out;
  absl::Status status;
  const FieldReader in(object, "Properties", &status);
  if (in.Has("ProcessList")) {
    out.process_list.emplace();
    in.ObjectList("ProcessList", [&out](const FieldReader& entry) {
      ListProcessesResponse::Entry process;
      entry.Required("ProcessId");
      entry.U32("ProcessId", &process.process_id);
      entry.Bool("Exited", &process.exited);
      out.process_list->push_back(process);
    });
  }
  in.Object("LCOWMetrics",
            [&out](const FieldReader& metrics) { ReadMetrics(metrics, &out.metrics.emplace()); });
  if (in.Has("State")) ReadState(in, &out);
  if (in.Has("NetworkLeases")) ReadLeases(in, &out.network_leases.emplace());
  RETURN_IF_ERROR(status);
  return out;
}

}  // namespace ferry::bridge
