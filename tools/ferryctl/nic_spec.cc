#include "tools/ferryctl/nic_spec.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::ctl {

absl::StatusOr<v1::NicSpec> ParseNic(absl::string_view text) {
  auto bad = [text](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("nic \"", text, "\": ", why,
                     "; write bridge=B, tap=T or user, and "
                     "[,name=N][,mac=M][,address=IP/LENGTH|dhcp][,gateway=IP][,dns=IP]"));
  };
  v1::NicSpec nic;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string value(pair.second);
    const bool is_place = part == "user" || pair.first == "bridge" || pair.first == "tap";
    if (is_place && nic.place_case() != v1::NicSpec::PLACE_NOT_SET) {
      return bad("it can be plugged in at one place only");
    }
    if (part == "user") {
      nic.set_user(true);
      continue;
    }
    if (value.empty()) return bad(absl::StrCat("\"", part, "\" says nothing"));
    if (pair.first == "bridge") {
      nic.set_bridge(value);
    } else if (pair.first == "tap") {
      nic.set_tap(value);
    } else if (pair.first == "name") {
      nic.set_name(value);
    } else if (pair.first == "mac") {
      nic.set_mac(value);
    } else if (part == "address=dhcp") {
      nic.set_dhcp(true);
    } else if (pair.first == "address") {
      nic.add_addresses(value);
    } else if (pair.first == "dns") {
      nic.add_name_servers(value);
    } else if (pair.first == "gateway") {
      nic.add_gateways(value);
    } else {
      return bad(absl::StrCat("unknown part \"", part, "\""));
    }
  }
  if (nic.place_case() == v1::NicSpec::PLACE_NOT_SET) return bad("it is plugged in nowhere");
  return nic;
}

}  // namespace ferry::ctl
