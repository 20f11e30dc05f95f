#include "migration/controller/session_row.h"

#include <utility>

namespace ferry::migration {

vm::SessionRow ToRow(const v1::Session& session, bool decided, std::string request_id) {
  vm::SessionRow row;
  row.id = session.session_id();
  row.vm_id = session.vm_id();
  row.is_source = session.origin() == v1::MIGRATION_ORIGIN_SOURCE;
  row.decided = decided;
  row.created_unix_ms = session.created_unix_ms();
  row.request_id = std::move(request_id);
  row.session_bytes = session.SerializeAsString();
  return row;
}

}  // namespace ferry::migration
