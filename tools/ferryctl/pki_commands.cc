#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/pki_folder.h"
#include "vmmanager/identity/certificate.h"

// `ferryctl pki`: certificates for a small fleet. Nothing here talks to a daemon.
namespace ferry::ctl {
namespace {

using identity::CertificateInfo;
using identity::Role;

constexpr int64_t kDay = 86'400;
constexpr int kMaxDays = 36'500;

int Report(const std::string& doing, const absl::Status& status) {
  std::fputs(absl::StrCat("Error: ", doing, " failed: ", status.message(), "\n").c_str(), stderr);
  return ExitCodeFor(status);
}

std::string Date(int64_t seconds) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::FromUnixSeconds(seconds),
                          absl::UTCTimeZone());
}

int Init(const std::string& folder, const std::string& name, int days) {
  const absl::Status made = PkiFolder(folder).Init(name, days * kDay);
  if (!made.ok()) return Report("making a certificate authority", made);
  std::printf(
      "Made the authority \"%s\", valid until %s:\n"
      "  %s/ca.pem  its certificate: copy it to every host and every person\n"
      "  %s/ca.key  its key: keep it here; whoever has it can do everything\n"
      "Next: ferryctl pki issue %s HOST --role peer --san DNS:HOST.EXAMPLE.NET\n",
      name.c_str(), Date(std::time(nullptr) + days * kDay).c_str(), folder.c_str(), folder.c_str(),
      folder.c_str());
  return kOk;
}

struct IssueFlags {
  std::string folder;
  std::string name;
  std::vector<std::string> roles;
  std::vector<std::string> addresses;
  std::string out;
  int days = 365;
};

int IssueCertificate(const IssueFlags& flags) {
  identity::CertificateOrder order;
  order.name = flags.name;
  order.addresses = flags.addresses;
  order.lifetime = flags.days * kDay;
  for (const std::string& role : flags.roles) order.roles.Add(*identity::ParseRole(role));
  const bool host = order.roles.Has(Role::kPeer);
  if (host && order.addresses.empty()) order.addresses = {"DNS:" + flags.name};
  auto issued = PkiFolder(flags.folder).Issue(order, flags.out);
  if (!issued.ok())
    return Report(absl::StrCat("issuing a certificate for ", flags.name), issued.status());
  std::printf(
      "Made a certificate for %s (%s), valid until %s:\n"
      "  %s\n"
      "  %s  secret\n",
      flags.name.c_str(), absl::StrJoin(order.roles.Names(), ", ").c_str(),
      Date(std::time(nullptr) + order.lifetime).c_str(), issued->certificate.c_str(),
      issued->key.c_str());
  const std::string files = absl::StrCat("--tls-ca ca.pem --tls-cert ", flags.name,
                                         ".pem --tls-key ", flags.name, ".key");
  if (host) {
    std::printf("Copy both and ca.pem to %s (%s), and start ferryd there with\n  %s\n",
                flags.name.c_str(), absl::StrJoin(order.addresses, ", ").c_str(), files.c_str());
  } else {
    std::printf("Give both and ca.pem to %s, who runs\n  ferryctl --host HOST:PORT %s COMMAND\n",
                flags.name.c_str(), files.c_str());
  }
  return kOk;
}

std::string Validity(const CertificateInfo& info) {
  switch (identity::ValidityAt(info, std::time(nullptr))) {
    case identity::Validity::kExpired:
      return "expired";
    case identity::Validity::kNotYetValid:
      return "not yet valid";
    case identity::Validity::kValid:
      return "valid";
  }
  return "";
}

int Show(const std::string& file, OutputFormat format) {
  auto pem = identity::ReadPemFile(file);
  if (!pem.ok()) return Report("reading a certificate", pem.status());
  auto certificate = identity::ParseCertificate(*pem);
  if (!certificate.ok()) {
    return Report("reading a certificate", absl::InvalidArgumentError(absl::StrCat(
                                               file, ": ", certificate.status().message())));
  }
  const CertificateInfo info = identity::Describe(certificate->get());
  const auto who = identity::IdentityOf(certificate->get());
  const std::string name = who.ok() && !who->name.empty() ? who->name : info.common_name;
  std::vector<std::string> roles = who.ok() ? who->roles.Names() : std::vector<std::string>();
  if (format == OutputFormat::kJson) {
    std::printf("%s\n", CertificateJson(info, name, roles, Validity(info)).c_str());
    return kOk;
  }
  std::string role_text = roles.empty() ? "none: permits nothing" : absl::StrJoin(roles, ", ");
  if (info.is_authority) role_text = "certificate authority";
  if (!who.ok()) role_text = absl::StrCat("none: ", who.status().message());
  std::printf(
      "Name:    %s\nRoles:   %s\nNames:   %s\nFrom:    %s\nUntil:   %s (%s)\nIssuer:  %s\n"
      "Serial:  %s\n",
      name.c_str(), role_text.c_str(), absl::StrJoin(info.names, "\n         ").c_str(),
      Date(info.not_before).c_str(), Date(info.not_after).c_str(), Validity(info).c_str(),
      info.issuer.c_str(), info.serial.c_str());
  return kOk;
}

void AddInit(CLI::App* pki, Command* command) {
  struct Flags {
    std::string folder;
    std::string name = "Ferry CA";
    int days = 3650;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* init = pki->add_subcommand("init", "Make a certificate authority in a new folder");
  init->add_option("DIR", flags->folder, "Where its files go")->required();
  init->add_option("--name", flags->name, "What it is called")->capture_default_str();
  init->add_option("--days", flags->days, "How long it is valid")
      ->check(CLI::Range(1, kMaxDays))
      ->capture_default_str();
  init->callback(
      [=] { command->local = [=] { return Init(flags->folder, flags->name, flags->days); }; });
}

void AddIssue(CLI::App* pki, Command* command) {
  auto flags = std::make_shared<IssueFlags>();
  CLI::App* issue = pki->add_subcommand("issue", "Make a key and a certificate");
  issue->add_option("DIR", flags->folder, "The authority's folder")->required();
  issue->add_option("NAME", flags->name, "Of the host or the person")->required();
  issue->add_option("--role", flags->roles, "What it permits (repeatable)")
      ->required()
      ->check(CLI::IsMember({"viewer", "operator", "admin", "peer"}));
  issue->add_option("--san", flags->addresses,
                    "DNS:NAME or IP:ADDRESS under which a host is dialled (repeatable; default "
                    "for a peer: DNS:NAME)");
  issue->add_option("--days", flags->days, "How long it is valid")
      ->check(CLI::Range(1, kMaxDays))
      ->capture_default_str();
  issue->add_option("--out", flags->out, "Folder for the two files (default: DIR)");
  issue->callback([=] { command->local = [=] { return IssueCertificate(*flags); }; });
}

}  // namespace

void AddPkiCommands(CLI::App* app, Command* command) {
  CLI::App* pki = app->add_subcommand("pki", "Make certificates for hosts and people");
  pki->require_subcommand(1);
  AddInit(pki, command);
  AddIssue(pki, command);
  auto file = std::make_shared<std::string>();
  CLI::App* show = pki->add_subcommand("show", "Show whom a certificate names");
  show->add_option("FILE", *file, "PEM file")->required();
  show->callback([=] { command->local = [=] { return Show(*file, command->options.format()); }; });
}

}  // namespace ferry::ctl
