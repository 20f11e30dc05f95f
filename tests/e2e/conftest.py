"""Fixtures of the end-to-end tests."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness.fixtures import *  # noqa: E402, F401, F403
