#pragma once

namespace ferry::tools {

// Gives the calling thread, and the threads and processes that it starts from then on, this
// niceness (-20 to 19). What is not permitted is logged, and everything stays as it is. Returns the
// niceness before.
int SetNiceness(int niceness);

}  // namespace ferry::tools
