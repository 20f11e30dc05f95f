#pragma once

namespace ferry {

// From here on, a signal that ends this program because of a fault of its own first has it say on
// stderr, which is a VM's console, where it was: registers, what they point at, and the stack. The
// program ends of it as before. A signal of that kind that others send to process 1 is ignored, as
// the kernel does without a handler. Call it once, on the main thread.
void ReportCrashes();

}  // namespace ferry
