"""Fails when a test program loads gRPC although the build counts it among those that do without it,
which run under the thread sanitizer.

Usage: grpc_list_test.py LIST   (of ferry_write_grpc_list() in cmake/FerryTest.cmake)
"""
import pathlib
import re
import subprocess
import sys

GRPC = re.compile(r"^\s*libgrpc(\+\+)?\.so", re.M)
# As the dynamic linker lists them.
SAMPLES = {"\tlibgrpc++.so.1.51 => /usr/lib/libgrpc++.so.1.51 (0x1)\n": True,
           "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibgrpc.so.29 => /usr/lib/x (0x2)\n": True,
           "\tlibprotobuf.so.32 => /usr/lib/libprotobuf.so.32 (0x1)\n": False}


def programs(text: str) -> dict[str, list[pathlib.Path]]:
    """The paths of each kind: "with" gRPC by what they link, and "without"."""
    found = {"with": [], "without": []}
    for line in text.splitlines():
        kind, path = line.split(" ", 1)
        found[kind].append(pathlib.Path(path))
    return found


def loads_grpc(program: pathlib.Path) -> bool:
    loaded = subprocess.run(["ldd", program], check=True, text=True, capture_output=True).stdout
    return GRPC.search(loaded) is not None


def problems(listed: dict[str, list[pathlib.Path]], loads) -> list[str]:
    """`loads` says whether a program loads gRPC; None: it is not built."""
    found = [f"no program is listed {kind} gRPC" for kind, paths in listed.items() if not paths]
    found += [f"{path.name} loads gRPC and would drown the thread sanitizer in reports"
              for path in listed["without"] if loads(path)]
    if all(loads(path) is None for path in listed["without"]):
        found.append("none of the programs without gRPC is built")
    return found


def self_test() -> None:
    for text, expected in SAMPLES.items():
        assert (GRPC.search(text) is not None) == expected, text
    a, b = pathlib.Path("a"), pathlib.Path("b")
    listed = programs("with a\nwithout b\n")
    assert listed == {"with": [a], "without": [b]}
    # What links gRPC need not use it: then the linker leaves it out.
    assert problems(listed, {a: False, b: False}.get) == []
    assert len(problems(listed, {a: True, b: True}.get)) == 1
    assert len(problems(listed, {a: True}.get)) == 1
    assert len(problems(programs("with a\n"), {a: True}.get)) == 2


if __name__ == "__main__":
    self_test()
    listed = programs(pathlib.Path(sys.argv[1]).read_text())
    bad = problems(listed, lambda path: loads_grpc(path) if path.exists() else None)
    print("\n".join(bad) or f"grpc_list: {len(listed['without'])} programs do without gRPC")
    sys.exit(1 if bad else 0)
