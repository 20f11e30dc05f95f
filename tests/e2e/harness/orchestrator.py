"""An orchestrator that drives both sides of one migration, as a program of its own that may be
killed at any moment. It keeps nothing but the session's id: started again, it finds out where the
migration stands and goes on from there.

Usage: orchestrator.py SOURCE_SOCKET DESTINATION_SOCKET SESSION VM DESTINATION [--die-after STEP]
                       [--expiry SECONDS]
"""
import argparse
import os
import pathlib
import signal
import sys
import types

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from harness.rpc import Rpc  # noqa: E402

PB = Rpc.pb
STEPS = ("export", "import", "prepare", "receive", "send", "off_line", "stop", "resume", "release",
         "clean_up_source", "clean_up_destination")


class Orchestrator:
    def __init__(self, options):
        self.options = options
        self.source, self.destination = (
            Rpc(types.SimpleNamespace(socket=path, outside=lambda path: path))
            for path in (options.source, options.destination))

    def step(self, name, call, *arguments, **options):
        result = call(*arguments, **options)
        if self.options.die_after == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def session(self, side):
        """What a side knows of the session; None if nothing."""
        try:
            return side.session(self.options.session)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return None

    def await_off_line(self):
        for message in self.source.notifications(self.options.session):
            if message.notification.phase == PB.MIGRATION_PHASE_OFFLINE_DONE:
                return
        raise RuntimeError(f"the transfer failed: {self.session(self.source)}")

    def transfer(self):
        session, vm, expiry = self.options.session, self.options.vm, self.options.expiry
        config = self.step("export", self.source.export, session, vm, self.options.address,
                           expiry=expiry)
        self.step("import", self.destination.import_sandbox, session, config, expiry=expiry)
        prepared = self.step("prepare", self.destination.prepare, session)
        self.step("receive", self.destination.transfer, session)
        self.step("send", self.source.transfer, session, prepared)
        self.step("off_line", self.await_off_line)

    def run(self):
        session = self.options.session
        known = self.session(self.source)
        if known is None or known.state < PB.SESSION_STATE_TRANSFER_COMPLETED:
            self.transfer()
            known = self.session(self.source)
        if not known.done:
            go = self.step("stop", self.source.stop, session)
            done = self.step("resume", self.destination.resume, session, go)
            self.step("release", self.source.stop, session, done)
        self.step("clean_up_source", self.source.cleanup, session)
        self.step("clean_up_destination", self.destination.cleanup, session)


def main():
    parser = argparse.ArgumentParser()
    for name in ("source", "destination", "session", "vm", "address"):
        parser.add_argument(name)
    parser.add_argument("--die-after", choices=STEPS)
    parser.add_argument("--expiry", type=int, default=0)
    Orchestrator(parser.parse_args()).run()


if __name__ == "__main__":
    main()
