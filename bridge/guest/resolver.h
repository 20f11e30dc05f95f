#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/network/address.h"

// The file in which programs find out whom to ask for names: /etc/resolv.conf.
namespace ferry::bridge {

// What one network card brings.
struct CardNames {
  std::string interface;
  std::vector<net::IpAddress> servers;
  std::string domain;  // in which names without one are looked for; empty: none
};

// Without I/O: what the file says of the cards, the first one first; nothing if none has a server.
// No more servers than a resolver asks.
std::string ResolverText(const std::vector<CardNames>& cards);

// In one step: whoever reads the file finds the old text or the new one.
absl::Status WriteResolver(const std::string& path, const std::string& text);

}  // namespace ferry::bridge
