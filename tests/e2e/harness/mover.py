"""A running `ferryctl migrate --json`: how far it is, and how it ended."""
import json
import re

from .ctl import snake

# So slow that a transfer is certain to be under way whenever a test looks.
SLOW = ("--max-bandwidth", "1000000")


def wait_until_moving(mover):
    """Waits until memory moves."""
    mover.wait_until(lambda output: b"MIGRATION_PHASE_TRANSFER_IN_PROGRESS" in output)


def phase_seen(mover, phase):
    """When it printed a message of that phase, or None."""
    found = re.search(b"MIGRATION_PHASE_" + phase, mover.output())
    return mover.arrival(found.start()) if found else None


def last_word(mover):
    """Waits for the end; the session, which it prints last."""
    mover.wait(120)
    lines = mover.output().splitlines()
    assert lines, mover.errors()
    return snake(json.loads(lines[-1]))


def assert_failed(mover, location, *reasons):
    """The migration failed for one of these reasons, and left the VM at an address (or
    "nowhere")."""
    ended = last_word(mover)
    assert ended["outcome"] == "SESSION_OUTCOME_FAILED", str(ended)
    assert ended["vm_location"] == location, str(ended)
    assert ended["reason"] in reasons, str(ended)


def assert_succeeded(mover, destination):
    ended = last_word(mover)
    assert ended["outcome"] == "SESSION_OUTCOME_SUCCEEDED", ended
    assert ended["vm_location"] == destination.address, ended
