"""The build that is tested."""
import functools
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]


def build_folder():
    """$FERRY_BUILD, which may be given from the project's root."""
    return ROOT / os.environ.get("FERRY_BUILD", "build/dev")


@functools.cache
def is_sanitized():
    """Whether a sanitizer looks at its daemons."""
    cache = (build_folder() / "CMakeCache.txt").read_text()
    return "\nFERRY_SANITIZER:STRING=\n" not in cache
