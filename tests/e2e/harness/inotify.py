"""Files as they appear and grow in a folder, from the kernel's own notices."""
import ctypes
import os
import struct

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Tells which names appear in the folders that it watches, and which files are written to. To
    be waited for as a descriptor."""

    def __init__(self):
        self._fd = _libc.inotify_init1(os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._folders = {}

    def fileno(self):
        return self._fd

    def watch(self, folder):
        number = _libc.inotify_add_watch(self._fd, os.fsencode(folder),
                                         IN_CREATE | IN_MOVED_TO | IN_MODIFY)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
        self._folders[number] = folder

    def appeared(self):
        """Waits for notices; returns (folder, name) of what appeared, nothing of what grew."""
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
