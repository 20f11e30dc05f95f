#pragma once

namespace ferry::identity {

// From here on no connection of this process, by whichever library, speaks less than TLS 1.3.
// gRPC 1.51 has no setting for that. Idempotent; call it before the first TLS connection.
void RequireTls13();

}  // namespace ferry::identity
