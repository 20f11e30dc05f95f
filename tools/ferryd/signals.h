#pragma once

namespace ferry::tools {

// Lets no signal end this process that only tells of something: of a reader that has gone
// (SIGPIPE), or that somebody wants to open a file on which this process has a lease (SIGIO).
void IgnoreTellingSignals();

}  // namespace ferry::tools
