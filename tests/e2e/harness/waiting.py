"""Waits for what nothing tells of."""
import time


def wait_for(holds, what, timeout=60):
    """Until it holds; what is wrong if it never does."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_closely(holds, what, timeout=60):
    """The same without a pause, for what does not hold for long."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, what
