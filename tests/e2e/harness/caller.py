"""An orchestrator that connects two daemons, starts their transfer, and dies when it is killed.

Usage: python3 -m harness.caller SESSION [SOCKET STATE_FOLDER FD]...

For each daemon, destination first: its API socket and its state folder as seen from here, and our
inherited end of the connection. Prints "started" when both transfer.
"""
import pathlib
import signal
import socket
import sys
import types

from .rpc import Rpc


def main(session, *words):
    sides = [words[at:at + 3] for at in range(0, len(words), 3)]
    for api, state, number in sides:
        host = types.SimpleNamespace(socket=api, state=pathlib.Path(state), outside=pathlib.Path)
        rpc = Rpc(host)
        rpc.give_socket(session, socket.socket(fileno=int(number)))
        rpc.transfer(session)
    print("started", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
