"""Pings a host until stdin ends, and says how many pings were lost.

Usage: lan_ping.py ADDRESS
"""
import json
import select
import socket
import struct
import sys
import time

PERIOD = 0.01
FIRST_DEADLINE = 60
LAST_WAIT = 1.0


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Pinger:
    def __init__(self, address):
        self._v6 = ":" in address
        family = socket.AF_INET6 if self._v6 else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        self._address = address
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)
        self.sent = 0
        self.answered = set()

    def send(self):
        number = self.sent
        self.sent += 1
        body = struct.pack("!HHQ", 0xfe44, number & 0xffff, number)
        request = 128 if self._v6 else 8
        packet = struct.pack("!BBH", request, 0, 0) + body
        # Of ICMPv6 the kernel does it.
        sum_ = 0 if self._v6 else checksum(packet)
        try:
            self.socket.sendto(struct.pack("!BBH", request, 0, sum_) + body, (self._address, 0))
        except OSError:
            pass  # nobody answers for its address now

    def receive(self):
        data = self.socket.recv(2048)
        if not self._v6:
            data = data[(data[0] & 15) * 4:]
        if len(data) >= 16 and data[0] == (129 if self._v6 else 0) and data[4:6] == b"\xfe\x44":
            self.answered.add(struct.unpack("!Q", data[8:16])[0])


def main():
    pinger = Pinger(sys.argv[1])
    deadline = time.monotonic() + FIRST_DEADLINE
    told, last, next_one = False, None, 0.0
    while last is None or time.monotonic() < last + LAST_WAIT:
        readable, _, _ = select.select(
            [pinger.socket] + ([sys.stdin] if last is None else []), [], [], PERIOD)
        if pinger.socket in readable:
            pinger.receive()
        if sys.stdin in readable:
            last = time.monotonic()
        if pinger.answered and not told:
            told = True
            first = min(pinger.answered)
            print("ready", flush=True)
        if not told and time.monotonic() > deadline:
            raise TimeoutError(f"{sys.argv[1]} does not answer")
        if last is None and time.monotonic() >= next_one:
            next_one = time.monotonic() + PERIOD
            pinger.send()
    lost = pinger.sent - first - len(pinger.answered)
    print(json.dumps({"sent": pinger.sent - first, "lost": lost}))


if __name__ == "__main__":
    main()
