#include "vmmanager/qemu/open_images.h"

#include <boost/json/object.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

namespace json = boost::json;

Task<absl::Status> OpenImages(QemuMachine* machine, std::vector<std::string> nodes) {
  // What runs has them open.
  if (machine->state() == schema::SystemState::kRunning) co_return absl::OkStatus();
  for (const std::string& node : nodes) {
    // QEMU has no command for that, but opens an image before it looks at anything else of an
    // export; there is no server for one here, so that is refused.
    json::object arguments = {
        {"type", "nbd"}, {"id", absl::StrCat(node, "-open")}, {"node-name", node}};
    const absl::Status refused =
        (co_await machine->Command("block-export-add", std::move(arguments))).status();
    if (GotNoAnswer(refused)) co_return refused;
  }
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
