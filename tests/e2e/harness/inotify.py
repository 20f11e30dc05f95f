"""Files as they appear, grow and go in a folder, from the kernel's own notices."""
import contextlib
import ctypes
import os
import select
import struct

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Tells which names appear in the folders that it watches, and that files are written to or
    removed. To be waited for as a descriptor."""

    def __init__(self):
        self._fd = _libc.inotify_init1(os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._folders = {}

    def fileno(self):
        return self._fd

    def watch(self, folder):
        number = _libc.inotify_add_watch(self._fd, os.fsencode(folder),
                                         IN_CREATE | IN_MOVED_TO | IN_MODIFY | IN_DELETE)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
        self._folders[number] = folder

    def appeared(self):
        """Waits for notices; returns (folder, name) of what appeared, nothing of what grew or went."""
        data = os.read(self._fd, 65536)
        found = []
        while data:
            number, mask, _, length = _EVENT.unpack_from(data)
            name = data[_EVENT.size:_EVENT.size + length].rstrip(b"\0")
            if mask & (IN_CREATE | IN_MOVED_TO):
                found.append((self._folders[number], os.fsdecode(name)))
            data = data[_EVENT.size + length:]
        return found

    def close(self):
        os.close(self._fd)


def wait_until(folder, holds, timeout=60):
    """Until it holds, looked at whenever something happens in the folder or in those in it."""
    with contextlib.closing(Inotify()) as notices:
        fresh = [folder, *folder.iterdir()]
        while True:
            for path in fresh:
                with contextlib.suppress(OSError):  # gone already
                    if path.is_dir():
                        notices.watch(path)
            if holds():
                return
            ready, _, _ = select.select([notices], [], [], timeout)
            assert ready, f"nothing happens in {folder}"
            fresh = [parent / name for parent, name in notices.appeared()]
