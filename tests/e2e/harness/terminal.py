"""A ferryctl on a terminal of its own, as a person has it."""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time


class Terminal:
    """Starts a command on a new pseudo terminal and keeps all that appears on it."""

    def __init__(self, command, rows=24, columns=80):
        self._master, self._slave = pty.openpty()
        self._leave, self._leaving = os.pipe()
        self.set_size(rows, columns)
        self.mode_before = termios.tcgetattr(self._slave)
        self._changed = threading.Condition()
        self._screen = bytearray()
        self._over = False
        self._process = subprocess.Popen(command, stdin=self._slave, stdout=self._slave,
                                         stderr=self._slave, start_new_session=True,
                                         preexec_fn=self._take)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _take(self):
        # In the child: the terminal becomes the session's, so that its keys raise signals.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _read(self):
        while True:
            ready, _, _ = select.select([self._master, self._leave], [], [])
            try:
                piece = b"" if self._leave in ready else os.read(self._master, 65536)
            except OSError:
                piece = b""
            with self._changed:
                self._screen.extend(piece)
                self._over = not piece
                self._changed.notify_all()
                if self._over:
                    return

    def set_size(self, rows, columns):
        """As when a person drags the window: the kernel tells the foreground by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        view = memoryview(keys)
        while view:
            view = view[os.write(self._master, view):]

    def signal(self, number):
        self._process.send_signal(number)

    def hang_up(self):
        """Closes the window."""
        # A read that is under way would keep our end open.
        os.close(self._leaving)
        self._reader.join(10)
        for end in (self._slave, self._master):
            os.close(end)
        self._leaving = self._slave = self._master = -1

    def screen(self):
        with self._changed:
            return bytes(self._screen)

    def lines(self):
        """Whole lines that appeared so far."""
        return self.screen().replace(b"\r", b"").split(b"\n")[:-1]

    def wait_for(self, text, count=1, timeout=60):
        """Waits until `text` has appeared `count` times."""
        self.wait_until(lambda screen: screen.count(text) >= count,
                        f"{text!r} did not appear {count} times", timeout)

    def wait_for_line(self, start, timeout=60):
        """Waits until a line that begins so is there to its end."""
        self.wait_until(lambda screen: any(line.startswith(start)
                                           for line in bytes(screen).split(b"\n")[:-1]),
                        f"no whole line begins with {start!r}", timeout)

    def wait_until(self, condition, complaint, timeout=60):
        """Waits until `condition(screen)` holds for all that appeared so far."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition(self._screen):
                left = deadline - time.monotonic()
                running = self.running()
                changed = left > 0 and not self._over and self._changed.wait(min(left, 1))
                # What a process wrote before it ended may still be on its way.
                if not changed and (left <= 0 or self._over or not running):
                    raise TimeoutError(f"{complaint}; the screen ends "
                                       f"with {bytes(self._screen[-600:])!r}")

    def is_raw(self):
        """Whether keys go through one by one: no echo, no lines, no signals."""
        flags = termios.tcgetattr(self._slave)[3]
        return not flags & (termios.ECHO | termios.ICANON | termios.ISIG)

    def is_restored(self):
        return termios.tcgetattr(self._slave) == self.mode_before

    def running(self):
        return self._process.poll() is None

    def wait(self, timeout=60):
        """Waits for the end; returns the exit status, negative if a signal ended it."""
        return self._process.wait(timeout)

    def close(self):
        if self.running():
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        if self._master >= 0:
            self.hang_up()
        os.close(self._leave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
