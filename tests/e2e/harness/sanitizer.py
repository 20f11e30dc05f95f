"""What tests do otherwise where a sanitizer looks at the daemons."""
import functools
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]


@functools.cache
def is_there():
    """Whether what is tested was built with one."""
    build = ROOT / os.environ.get("FERRY_BUILD", "build/dev")
    cache = (build / "CMakeCache.txt").read_text()
    return "\nFERRY_SANITIZER:STRING=\n" not in cache
