#include "tools/ferryctl/recover_command.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

// `ferryctl migration recover`: what both hosts know of a session, and a person's decision.
namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

std::string SideText(const v1::SessionKnowledge& side) {
  const bool source = side.origin() == v1::MIGRATION_ORIGIN_SOURCE;
  std::string text = absl::StrCat(source ? "Source " : "Destination ",
                                  side.address().empty() ? "-" : Printable(side.address()), "\n");
  if (!side.error().empty()) {
    return absl::StrCat(text, "  not known: ", Printable(side.error()), "\n");
  }
  std::vector<std::string> records;
  for (const v1::JournalEntry& entry : side.journal()) {
    records.push_back(absl::StrCat(Printable(entry.record()), " (", entry.sequence(), ", epoch ",
                                   entry.epoch(), ")"));
  }
  const bool absent = side.vm_state() == v1::VM_STATE_UNSPECIFIED;
  absl::StrAppend(&text, "  VM       ", absent ? "absent" : VmStateName(side.vm_state()),
                  "\n  records  ", records.empty() ? "-" : absl::StrJoin(records, ", "),
                  "\n  next     ", Printable(side.next()), "\n");
  return text;
}

std::string SidesText(const v1::RecoverSessionResponse& response) {
  std::string text;
  for (const v1::SessionKnowledge& side : response.sides()) absl::StrAppend(&text, SideText(side));
  return text;
}

std::string ForcedText(const v1::RecoverSessionResponse& response) {
  std::string text = SidesText(response);
  if (!response.risk().empty()) {
    absl::StrAppend(&text, "\nIt is decided. The risk was: ", Printable(response.risk()), ".\n");
  }
  return text;
}

}  // namespace

std::string KnownText(const v1::RecoverSessionResponse& response) {
  std::string text = SidesText(response);
  if (!response.risk().empty()) {
    absl::StrAppend(&text,
                    "\nIf the other host is lost for good: --force run-here or give-up, with ",
                    "--vm NAME.\nThe risk: ", Printable(response.risk()), ".\n");
  }
  return text;
}

void AddRecoverCommand(CLI::App* app, Command* command) {
  CLI::App* recover = app->add_subcommand(
      "recover", "Show what each host knows of a migration and what happens next");
  auto id = std::make_shared<std::string>();
  auto force = std::make_shared<std::string>();
  auto vm = std::make_shared<std::string>();
  recover->add_option("id", *id, "The session's id")->required();
  CLI::Option* decision =
      recover
          ->add_option("--force", *force,
                       "Decide without the other host, where the VM is in doubt: run-here (it may "
                       "run there, too) or give-up (it may run nowhere)")
          ->check(CLI::IsMember({"run-here", "give-up"}));
  CLI::Option* name = recover->add_option("--vm", *vm, "With --force: the VM's name");
  decision->needs(name);
  name->needs(decision);
  recover->callback([=] {
    command->action = [=](Client* client) {
      v1::RecoverSessionRequest request;
      request.set_session_id(*id);
      request.set_force(!force->empty());
      if (*force == "run-here") request.set_decision(v1::FORCED_DECISION_RUN_HERE);
      if (*force == "give-up") request.set_decision(v1::FORCED_DECISION_GIVE_UP);
      request.set_vm_name(*vm);
      return CallAndPrint(client, client->migrations->async(), &MigrationAsync::RecoverSession,
                          std::move(request), kCallTimeout,
                          absl::StrCat("recovering migration ", *id),
                          force->empty() ? &KnownText : &ForcedText);
    };
  });
}

}  // namespace ferry::ctl
