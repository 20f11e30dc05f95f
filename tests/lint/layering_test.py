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

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.M)
ROOMS = sorted(set(ALLOWED) | PROTO, key=len, reverse=True)


def room_of(path: str) -> str | None:
    for room in ROOMS:
        if path.startswith(room + "/"):
            return room
    return None


def violations(root: pathlib.Path) -> list[str]:
    found = []
    for top in ("bridge", "guestmanager", "vmmanager", "migration", "tools"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in (".h", ".cc"):
                continue
            name = file.relative_to(root).as_posix()
            own = room_of(name)
            if name.startswith("tools/"):
                allowed = TOOLS_GUEST if name.startswith("tools/ferry-guest/") else None
            elif own is None:
                found.append(f"{name}: lies in no room of the layering table")
                continue
            else:
                allowed = ALLOWED[own] | {own}
            for include in INCLUDE.findall(file.read_text()):
                room = room_of(include)
                if room is None:
                    if include.startswith(("grpc", "google/protobuf")) and (
                            name.startswith(("bridge/", "guestmanager/", "tools/ferry-guest/"))):
                        found.append(f"{name}: includes {include}; only the host's upper rooms may")
                    continue
                if allowed is not None and room not in allowed:
                    found.append(f"{name}: includes {include}, but {own or 'it'} may not use "
                                 f"{room}")
    return found


def self_test() -> None:
    assert room_of("bridge/mux/frame.h") == "bridge/mux"
    assert room_of("guestmanager/guest.h") == "guestmanager"
    assert "migration/commit" not in ALLOWED["vmmanager/sandbox"]
    for room, allowed in ALLOWED.items():
        for other in allowed:
            assert room not in ALLOWED.get(other, set()), f"{room} and {other} use each other"


if __name__ == "__main__":
    self_test()
    bad = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(bad) or "layering: every include points downwards")
    sys.exit(1 if bad else 0)
