#include "vmmanager/qemu/migration_channel.h"

#include <sys/socket.h>

#include <boost/json/object.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// As much as the daemon's own socket towards a destination's VMM; less where the kernel's limit
// (net.core.wmem_max) is lower.
constexpr int kSendBuffer = 1024 * 1024;

}  // namespace

Task<absl::StatusOr<std::string>> OpenMigrationChannel(QemuMachine* machine,
                                                       MigrationEndpoint endpoint,
                                                       bool several_channels) {
  if (several_channels) co_return absl::StrCat("unix:", endpoint.unix_path);
  CO_ASSIGN_OR_RETURN(const UniqueFd socket, ConnectUnixPath(endpoint.unix_path));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
  QmpCallOptions with_socket;
  with_socket.send_fd = socket.get();
  // QEMU forgets one of the same name that it was given and never used.
  json::object name = {{"fdname", "migration"}};
  CO_RETURN_IF_ERROR((co_await machine->Command("getfd", std::move(name), with_socket)).status());
  co_return "fd:migration";
}

}  // namespace ferry::vm
