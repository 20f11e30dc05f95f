#include "migration/controller/controller_deps.h"

namespace ferry::migration {

ControllerLimits ControllerLimits::For(const schema::MigrationInitializeOptions& options) const {
  ControllerLimits limits = *this;
  if (!options.prepare_memory_transfer_mode.value_or(false)) return limits;
  for (milliseconds* limit : {&limits.cut, &limits.vote, &limits.stall}) {
    *limit *= kPatience;
  }
  return limits;
}

}  // namespace ferry::migration
