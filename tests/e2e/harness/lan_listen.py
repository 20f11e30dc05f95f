"""Listens on an interface until a card was announced in every way that there is.

Usage: lan_listen.py INTERFACE MAC
What comes in there from that MAC address counts: RARP (of the VMM), gratuitous ARP and unsolicited
neighbour advertisements (of the guest).
"""
import json
import select
import socket
import sys
import time

DEADLINE = 50
OUTGOING = 4
WANTED = ("rarp", "arp", "neighbour")


def kind(frame):
    """What the frame announces; None: nothing."""
    protocol = frame[12:14]
    if protocol == b"\x80\x35":
        return "rarp"
    if protocol == b"\x08\x06" and frame[28:32] == frame[38:42]:
        return "arp"
    # ICMPv6 type 136, and nobody has asked for it.
    if protocol == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 and not frame[58] & 0x40:
        return "neighbour"
    return None


def main():
    interface, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    listener.bind((interface, 0))
    print("ready", flush=True)
    seen = dict.fromkeys(WANTED, 0)
    deadline = time.monotonic() + DEADLINE
    while not all(seen.values()) and time.monotonic() < deadline:
        if not select.select([listener], [], [], 1)[0]:
            continue
        frame, address = listener.recvfrom(2048)
        if address[2] == OUTGOING or frame[6:12] != mac or len(frame) < 42:
            continue
        what = kind(frame.ljust(60, b"\0"))
        if what:
            seen[what] += 1
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
