#include "bridge/protocol/network_messages.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace json = boost::json;

std::string Encode(const NetworkAdapter& adapter) {
  json::array addresses;
  for (const IpConfig& config : adapter.ip_configs) {
    addresses.push_back(
        json::object{{"IPAddress", config.ip_address}, {"PrefixLength", config.prefix_length}});
  }
  json::array routes;
  for (const NetworkRoute& route : adapter.routes) {
    routes.push_back(
        json::object{{"NextHop", route.next_hop}, {"DestinationPrefix", route.destination_prefix}});
  }
  json::object out{{"ID", adapter.id}, {"MacAddress", adapter.mac_address}};
  if (!addresses.empty()) out["IPConfigs"] = std::move(addresses);
  if (!routes.empty()) out["Routes"] = std::move(routes);
  if (!adapter.name_servers.empty()) {
    out["DNSServerList"] = absl::StrJoin(adapter.name_servers, ",");
  }
  if (adapter.dhcp) out["DhcpEnabled"] = true;
  return json::serialize(out);
}

template <>
absl::StatusOr<NetworkAdapter> Decode(std::string_view text) {
  ASSIGN_OR_RETURN(const json::object object, ParseObject(text));
  NetworkAdapter adapter;
  absl::Status status;
  const FieldReader in(object, kResourceNetwork, &status);
  in.Required("ID");
  in.Text("ID", &adapter.id);
  in.Required("MacAddress");
  in.Text("MacAddress", &adapter.mac_address);
  in.ObjectList("IPConfigs", [&adapter](const FieldReader& entry) {
    IpConfig& config = adapter.ip_configs.emplace_back();
    entry.Text("IPAddress", &config.ip_address);
    entry.U32("PrefixLength", &config.prefix_length);
  });
  in.ObjectList("Routes", [&adapter](const FieldReader& entry) {
    NetworkRoute& route = adapter.routes.emplace_back();
    entry.Text("NextHop", &route.next_hop);
    entry.Text("DestinationPrefix", &route.destination_prefix);
  });
  std::string servers;
  in.Text("DNSServerList", &servers);
  if (!servers.empty()) adapter.name_servers = absl::StrSplit(servers, ',');
  in.Bool("DhcpEnabled", &adapter.dhcp);
  if (adapter.name_servers.size() > kMaxNameServerEntries) {
    in.Complain("DNSServerList", "has too many entries");
  }
  if (adapter.ip_configs.size() > kMaxIpConfigs) in.Complain("IPConfigs", "has too many entries");
  if (adapter.routes.size() > kMaxRoutes) in.Complain("Routes", "has too many entries");
  // hcsshim's, for a pod's own namespace, and not to be passed over in silence.
  std::string space;
  bool assigned = false;
  in.Text("NamespaceID", &space);
  in.Bool("VPCIAssigned", &assigned);
  if (!space.empty()) in.Complain("NamespaceID", "is not supported");
  if (assigned) in.Complain("VPCIAssigned", "is not supported");
  RETURN_IF_ERROR(status);
  return adapter;
}

}  // namespace ferry::bridge
