"""Fails when a source file includes from a folder above its own.

Usage: layering_test.py SOURCE_ROOT
"""
import pathlib
import re
import sys

# Each room, lowest first within its group, with the rooms that it may use beside itself.
BRIDGE_RUNTIME = {"bridge/runtime"}
BRIDGE_WIRE = BRIDGE_RUNTIME | {"bridge/protocol", "bridge/stream", "bridge/transport"}
HOST_BRIDGE = BRIDGE_WIRE | {"bridge/mux", "bridge/network"}
PROTO = {"ferry/v1", "ferry/state/v1"}
VM_LOW = HOST_BRIDGE | {"vmmanager/schema", "vmmanager/backend"}
VM_SANDBOX = VM_LOW | PROTO | {"guestmanager", "vmmanager/fence", "vmmanager/state",
                               "vmmanager/store"}
VM_ALL = VM_SANDBOX | {"vmmanager/qemu", "vmmanager/sandbox", "vmmanager/identity", "vmmanager/rpc",
                       "vmmanager/jobs", "vmmanager/service"}
MIGRATION_PARTS = {"migration/options", "migration/session", "migration/commit",
                   "migration/connection"}

ALLOWED = {
    "bridge/runtime": set(),
    "bridge/protocol": BRIDGE_RUNTIME,
    "bridge/network": BRIDGE_RUNTIME,
    "bridge/stream": BRIDGE_RUNTIME,
    "bridge/transport": BRIDGE_RUNTIME,
    "bridge/mux": BRIDGE_RUNTIME | {"bridge/transport"},
    "bridge/process": BRIDGE_RUNTIME,
    "bridge/container": BRIDGE_RUNTIME | {"bridge/protocol", "bridge/process"},
    "bridge/guest": BRIDGE_WIRE | {"bridge/process", "bridge/container", "bridge/network"},
    "guestmanager": BRIDGE_WIRE,
    "vmmanager/schema": BRIDGE_RUNTIME,
    "vmmanager/layers": BRIDGE_RUNTIME,
    "vmmanager/backend": BRIDGE_WIRE | {"vmmanager/schema"},
    "vmmanager/fence": BRIDGE_RUNTIME | PROTO | {"vmmanager/rpc"},
    "vmmanager/network": BRIDGE_RUNTIME | {"bridge/network", "vmmanager/schema"},
    "vmmanager/qemu": VM_LOW | {"vmmanager/network"},
    "vmmanager/state": BRIDGE_RUNTIME | PROTO | {"guestmanager", "vmmanager/schema"},
    "vmmanager/saves": BRIDGE_RUNTIME | {"vmmanager/state"},
    "vmmanager/store": BRIDGE_RUNTIME,
    "vmmanager/sandbox": VM_SANDBOX | {"vmmanager/rpc"},
    "vmmanager/identity": BRIDGE_RUNTIME,
    "vmmanager/rpc": BRIDGE_RUNTIME | PROTO | {"vmmanager/identity"},
    "vmmanager/images": BRIDGE_RUNTIME | {"vmmanager/layers", "vmmanager/qemu", "vmmanager/rpc"},
    "vmmanager/containers": (VM_SANDBOX | {"vmmanager/rpc", "vmmanager/sandbox",
                                           "vmmanager/images", "vmmanager/layers",
                                           "vmmanager/qemu"}),
    "vmmanager/jobs": VM_SANDBOX | {"vmmanager/rpc", "vmmanager/sandbox"},
    "vmmanager/saving": VM_SANDBOX | {"vmmanager/rpc", "vmmanager/sandbox", "vmmanager/images",
                                       "vmmanager/containers", "vmmanager/saves",
                                       "vmmanager/jobs"},
    "vmmanager/disks": VM_SANDBOX | {"vmmanager/rpc", "vmmanager/sandbox", "vmmanager/containers",
                                      "vmmanager/saving", "vmmanager/jobs"},
    "vmmanager/service": VM_SANDBOX | {"vmmanager/rpc", "vmmanager/sandbox", "vmmanager/images",
                                        "vmmanager/layers", "vmmanager/containers",
                                        "vmmanager/saving", "vmmanager/jobs",
                                        "vmmanager/disks"},
    "migration/options": BRIDGE_RUNTIME | PROTO | {"vmmanager/schema"},
    "migration/session": BRIDGE_RUNTIME | PROTO | {"vmmanager/schema", "vmmanager/store"},
    "migration/commit": BRIDGE_RUNTIME,
    "migration/connection": BRIDGE_RUNTIME | {"vmmanager/identity"},
    "migration/layers": BRIDGE_RUNTIME | {"migration/connection", "vmmanager/images",
                                          "vmmanager/layers", "vmmanager/rpc"},
    "migration/controller": (VM_SANDBOX | MIGRATION_PARTS
                             | {"vmmanager/sandbox", "vmmanager/identity", "vmmanager/rpc",
                                "vmmanager/containers", "migration/layers"}),
    "migration/preflight": (VM_SANDBOX | MIGRATION_PARTS
                            | {"vmmanager/sandbox", "vmmanager/identity", "vmmanager/rpc",
                               "migration/controller"}),
    "migration/service": VM_ALL - {"vmmanager/qemu"} | MIGRATION_PARTS | {"migration/controller",
                                                                          "migration/preflight"},
}
# The guest links no protobuf, no gRPC and none of the host's code.
TOOLS_GUEST = HOST_BRIDGE | {"bridge/process", "bridge/container", "bridge/guest"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)
ROOMS = sorted(set(ALLOWED) | PROTO, key=len, reverse=True)
TOPS = ("bridge", "guestmanager", "vmmanager", "migration", "tools")
# What is ours alone, whichever way it is included.
OURS = TOPS + ("tests", "ferry")


def room_of(path: str) -> str | None:
    for room in ROOMS:
        if path.startswith(room + "/"):
            return room
    return None


def tool_of(path: str) -> str | None:
    """A program's folder; nobody else may include what is in it."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "tools" and len(parts) > 2 else None


def rpc_is_above(name: str) -> bool:
    return name.startswith(("bridge/", "guestmanager/", "tools/ferry-guest/"))


def complaint(name: str, include: str) -> str | None:
    """What is wrong with this include in that file, if anything is."""
    if ".." in include.split("/"):
        return "name it from the project's root"
    own, room = room_of(name), room_of(include)
    if room is None:
        if tool_of(include) is not None and tool_of(include) == tool_of(name):
            return None
        if include.split("/")[0] in OURS:
            return "it lies in no room that may be used"
        if include.startswith(("grpc", "google/protobuf")) and rpc_is_above(name):
            return "only the host's upper rooms may"
        return None
    if tool_of(name) is not None:
        fits = not name.startswith("tools/ferry-guest/") or room in TOOLS_GUEST
    else:
        fits = room == own or room in ALLOWED.get(own, set())
    return None if fits else f"{own or tool_of(name)} may not use {room}"


def violations_in(name: str, text: str) -> list[str]:
    if room_of(name) is None and tool_of(name) is None:
        return [f"{name}: lies in no room of the layering table"]
    found = []
    for mark, include in INCLUDE.findall(text):
        why = complaint(name, include)
        if why is None and mark == '"' and "/" not in include:
            why = "name it from the project's root"
        if why is not None:
            found.append(f"{name}: includes {include}: {why}")
    return found


def violations(root: pathlib.Path) -> list[str]:
    found = []
    for top in TOPS:
        for file in sorted((root / top).rglob("*")):
            if file.suffix in (".h", ".cc"):
                found += violations_in(file.relative_to(root).as_posix(), file.read_text())
    return found


def self_test() -> None:
    assert room_of("bridge/mux/frame.h") == "bridge/mux"
    assert room_of("guestmanager/guest.h") == "guestmanager"
    assert "migration/commit" not in ALLOWED["vmmanager/sandbox"]
    for room, allowed in ALLOWED.items():
        for other in allowed:
            assert room not in ALLOWED.get(other, set()), f"{room} and {other} use each other"
    good = (("bridge/mux/a.cc", "<vector>"), ("bridge/mux/a.cc", '"absl/status/status.h"'),
            ("bridge/mux/a.cc", '"bridge/runtime/async.h"'),
            ("vmmanager/rpc/a.h", '"ferry/v1/vm.pb.h"'), ("vmmanager/rpc/a.h", "<grpcpp/grpcpp.h>"),
            ("tools/ferryd/a.cc", '"tools/ferryd/b.h"'),
            ("tools/ferryd/a.cc", '"migration/service/b.h"'))
    bad = (("bridge/mux/a.cc", '"vmmanager/sandbox/b.h"'),
           ("vmmanager/sandbox/a.h", '"migration/commit/b.h"'),
           ("vmmanager/sandbox/a.h", '"../../migration/commit/b.h"'),
           ("vmmanager/sandbox/a.h", '"b.h"'), ("vmmanager/sandbox/a.h", '"tools/ferryd/b.h"'),
           ("migration/controller/a.h", '"tests/unit/b.h"'),
           ("migration/controller/a.h", "<tools/ferryd/b.h>"),
           ("tools/ferryctl/a.cc", '"tools/ferryd/b.h"'), ("tools/ferryd/a.cc", '"tests/unit/b.h"'),
           ("tools/ferry-guest/a.cc", '"vmmanager/sandbox/b.h"'),
           ("tools/ferry-guest/a.cc", "<grpcpp/grpcpp.h>"),
           ("guestmanager/a.cc", "<google/protobuf/message.h>"),
           ("vmmanager/nowhere/a.cc", "<vector>"))
    for name, include in good:
        assert violations_in(name, f"#include {include}") == [], (name, include)
    for name, include in bad:
        assert len(violations_in(name, f"  #  include {include}")) == 1, (name, include)


if __name__ == "__main__":
    self_test()
    bad = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(bad) or "layering: every include points downwards")
    sys.exit(1 if bad else 0)
