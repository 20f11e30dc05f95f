"""Folders that have little room, and a guest that writes more to its first disk than they take."""
from .records import ROOT, shell

WRITTEN_MB = 24
_PATTERN = f"yes pattern | head -c {1 << 20}"
_ALL_OF_IT = f"{_PATTERN} > /tmp/one; for i in $(seq {WRITTEN_MB}); do cat /tmp/one; done"
WRITE = f"({_ALL_OF_IT}) | dd of={ROOT} bs=1M seek=8 conv=notrunc,fsync 2>/dev/null"


def small_folder(host, size, name="small"):
    """A folder of the host that has no more room than that."""
    folder = host.folder / name
    host.run(["mkdir", folder], check=True)
    host.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    return folder


def enlarge(host, folder):
    host.run(["mount", "-o", "remount,size=400m", folder], check=True)


def digest(host):
    """Of what the guest has written."""
    return shell(host, "vm", "echo 3 > /proc/sys/vm/drop_caches; "
                             f"dd if={ROOT} bs=1M skip=8 count={WRITTEN_MB} 2>/dev/null | md5sum")


def made_digest(host):
    """Of what it writes, without a disk."""
    return shell(host, "vm", f"({_ALL_OF_IT}) | md5sum")
