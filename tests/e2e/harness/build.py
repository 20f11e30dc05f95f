"""The build that is tested."""
import functools
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[3]


def build_folder():
    """$FERRY_BUILD, which may be given from the project's root."""
    return ROOT / os.environ.get("FERRY_BUILD", "build/dev")


@functools.cache
def _cached(name):
    """What CMake was given for it, or nothing."""
    cache = (build_folder() / "CMakeCache.txt").read_text()
    return re.search(rf"^{name}:\w+=(.*)$", cache, re.MULTILINE)[1]


def is_sanitized():
    """Whether a sanitizer looks at its daemons."""
    return _cached("FERRY_SANITIZER") != ""


def guest_binaries():
    """The folder of what is in its guests."""
    return pathlib.Path(_cached("FERRY_GUEST_BINARIES") or build_folder() / "bin")
