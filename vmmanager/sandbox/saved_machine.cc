#include "vmmanager/sandbox/saved_machine.h"

namespace ferry::vm {

v1::SavedState ToProto(const state::v1::SavedRecord& record) {
  v1::SavedState saved;
  saved.set_file(record.file());
  saved.set_saved_unix_ms(record.saved_unix_ms());
  saved.set_file_bytes(record.file_bytes());
  saved.set_memory_bytes(record.memory_bytes());
  saved.set_compression(record.compressed() ? v1::SAVE_COMPRESSION_ZSTD
                                            : v1::SAVE_COMPRESSION_NONE);
  saved.set_encrypted(!record.key_file().empty());
  return saved;
}

}  // namespace ferry::vm
