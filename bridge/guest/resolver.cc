#include "bridge/guest/resolver.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/network/dhcp_message.h"

namespace ferry::bridge {
namespace {

// Of these each link may have the same.
std::string ServerText(const net::IpAddress& server, const std::string& interface) {
  const std::string text = server.ToString();
  return net::IsLinkLocal(server) ? absl::StrCat(text, "%", interface) : text;
}

void AddOnce(const std::string& word, std::vector<std::string>* words) {
  if (std::find(words->begin(), words->end(), word) == words->end()) words->push_back(word);
}

}  // namespace

std::string ResolverText(const std::vector<CardNames>& cards) {
  std::vector<std::string> servers;
  std::vector<std::string> domains;
  for (const CardNames& card : cards) {
    for (const net::IpAddress& server : card.servers) {
      AddOnce(ServerText(server, card.interface), &servers);
    }
    if (!card.domain.empty()) AddOnce(card.domain, &domains);
  }
  if (servers.empty()) return "";
  if (servers.size() > net::kMaxNameServers) servers.resize(net::kMaxNameServers);
  std::string text;
  if (!domains.empty()) text = absl::StrCat("search ", absl::StrJoin(domains, " "), "\n");
  for (const std::string& server : servers) absl::StrAppend(&text, "nameserver ", server, "\n");
  return text;
}

absl::Status WriteResolver(const std::string& path, const std::string& text) {
  const std::string draft = absl::StrCat(path, ".new");
  std::ofstream file(draft, std::ios::trunc);
  file << text;
  file.close();
  if (!file || chmod(draft.c_str(), 0644) != 0 || rename(draft.c_str(), path.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace ferry::bridge
