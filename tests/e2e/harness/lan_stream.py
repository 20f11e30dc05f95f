"""Streams numbered records over one TCP connection to a server that sends back what it gets.

Usage: lan_stream.py ADDRESS PORT
Each record must come back in its turn. When stdin ends it stops sending, waits until all is back
and prints what there was: records, and the longest time in which none came (milliseconds).
"""
import json
import selectors
import socket
import struct
import sys
import time

RECORD = struct.Struct("!Q56x")
PERIOD = 0.01
CONNECT_DEADLINE = 60
LAST_DEADLINE = 30


def connect(address, port):
    deadline = time.monotonic() + CONNECT_DEADLINE
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Stream:
    def __init__(self, connection):
        self._connection = connection
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.received = 0
        self.longest = 0.0
        self._last = None
        self._out = b""
        self._in = b""

    def send(self):
        if not self._out:
            self._out = RECORD.pack(self.sent)
            self.sent += 1
        try:
            self._out = self._out[self._connection.send(self._out):]
        except BlockingIOError:
            pass

    def finish_record(self):
        while self._out:
            self.send()

    def receive(self):
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionError("the server has closed the connection")
        now = time.monotonic()
        if self._last is not None:
            self.longest = max(self.longest, now - self._last)
        self._last = now
        self._in += data
        while len(self._in) >= RECORD.size:
            (number,) = RECORD.unpack(self._in[:RECORD.size])
            if number != self.received:
                raise AssertionError(f"record {number} came in place of {self.received}")
            self.received += 1
            self._in = self._in[RECORD.size:]


def main():
    connection = connect(sys.argv[1], int(sys.argv[2]))
    stream = Stream(connection)
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    told, sending, deadline, next_one = False, True, None, 0.0
    while sending or stream.received < stream.sent:
        for key, _ in selector.select(PERIOD):
            if key.fileobj is connection:
                stream.receive()
                if stream.received and not told:
                    told = True
                    print("ready", flush=True)
            else:
                selector.unregister(sys.stdin)
                sending, deadline = False, time.monotonic() + LAST_DEADLINE
                stream.finish_record()
        if sending and time.monotonic() >= next_one:
            next_one = time.monotonic() + PERIOD
            stream.send()
        elif not sending and time.monotonic() > deadline:
            raise TimeoutError(f"{stream.sent - stream.received} records did not come back")
    print(json.dumps({"records": stream.received, "gap_ms": stream.longest * 1000}))


if __name__ == "__main__":
    main()
