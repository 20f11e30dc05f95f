#pragma once

#include <functional>
#include <string>

#include "bridge/runtime/async.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/sandbox/checkpoint_steps.h"
#include "vmmanager/sandbox/event_log.h"
#include "vmmanager/sandbox/host_settings.h"
#include "vmmanager/sandbox/overlay_files.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {

class FileReads;

// What every VM of a host works with. All must outlive the VMs.
struct SandboxDeps {
  Executor executor;
  Backend& backend;
  Store& store;
  EventLog& events;
  Fence& fence;
  const HostSettings& settings;
  FileReads& reads;       // of what users name
  FileReads& host_reads;  // of the host's own files, which that must not hold up
  // Is told of each step between which a daemon must be able to die; only tests do something then.
  std::function<void(const std::string& point)> failpoint = {};
  OverlayFiles* overlays = nullptr;  // nullptr: no checkpoints can be taken
  ScratchPlaces* scratch = nullptr;  // nullptr: there are no containers
};

}  // namespace ferry::vm
