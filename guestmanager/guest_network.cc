#include "guestmanager/guest_network.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/guest_connection.h"
#include "guestmanager/guest_containers.h"

namespace ferry::guest {
namespace {

// Whether the agent knows what these cards are to be.
absl::Status CheckKnown(const bridge::GuestDefinedCapabilities& agent,
                        const std::vector<bridge::NetworkAdapter>& adapters) {
  if (!agent.network_supported) {
    return absl::UnimplementedError(
        "the VM's guest image has an agent that knows no network cards; start the VM with a newer "
        "one, or make it without cards");
  }
  const bool asks =
      std::any_of(adapters.begin(), adapters.end(), [](const bridge::NetworkAdapter& adapter) {
        return adapter.dhcp || !adapter.name_servers.empty();
      });
  if (agent.dhcp_supported || !asks) return absl::OkStatus();
  return absl::UnimplementedError(
      "the VM's guest image has an agent that knows neither DHCP nor name servers; start the VM "
      "with a newer one, or make it with addresses and without name servers");
}

}  // namespace

Task<absl::Status> AddGuestAdapters(std::shared_ptr<GuestConnection> connection,
                                    std::vector<bridge::NetworkAdapter> adapters,
                                    milliseconds limit) {
  if (adapters.empty()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(CheckKnown(connection->core().capabilities().guest_defined, adapters));
  for (const bridge::NetworkAdapter& adapter : adapters) {
    bridge::ModifySettingsRequest request;
    request.resource_type = bridge::kResourceNetwork;
    request.settings = Encode(adapter);
    std::string text = Encode(request);
    CO_ASSIGN_OR_RETURN(const std::string answer,
                        co_await connection->Call(bridge::kModifySettings, std::move(text), limit));
    const auto response = bridge::Decode<bridge::SimpleResponse>(answer);
    if (!response.ok()) co_return response.status();
    CO_RETURN_IF_ERROR(FromAgent(*response, absl::StrCat("set up the network card ", adapter.id)));
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<bridge::NetworkLease>>> AskForLeases(
    std::shared_ptr<GuestConnection> connection, milliseconds limit) {
  bridge::PropertyQuery query;
  query.property_types = {"NetworkLeases"};
  bridge::GetPropertiesRequest request;
  request.query = Encode(query);
  std::string text = Encode(request);
  CO_ASSIGN_OR_RETURN(const std::string answer,
                      co_await connection->Call(bridge::kGetProperties, std::move(text), limit));
  const auto response = bridge::Decode<bridge::GetPropertiesResponse>(answer);
  if (!response.ok()) co_return response.status();
  CO_RETURN_IF_ERROR(FromAgent(*response, "tell what its cards have by DHCP"));
  CO_ASSIGN_OR_RETURN(auto properties,
                      bridge::Decode<bridge::ContainerProperties>(response->properties));
  co_return properties.network_leases.value_or(std::vector<bridge::NetworkLease>());
}

}  // namespace ferry::guest
