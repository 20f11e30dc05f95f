"""First process of a host's namespaces: makes its mounts private, then reaps orphans.

Usage: holder.py PRIVATE_FOLDER [SHARED_FOLDER]
Run by namespaces.py under unshare. Mounts file systems of its own on PRIVATE_FOLDER, /run and
/dev/shm and makes every other one read-only, so that two hosts share nothing that either can write
to, but for SHARED_FOLDER.
"""
import os
import subprocess
import sys
import time

# Device nodes and the kernel's own files are no storage.
KEPT_WRITABLE = ("/proc", "/sys", "/dev")


def mount(*arguments, check=True):
    subprocess.run(["mount", *arguments], check=check, stderr=None if check else subprocess.DEVNULL)


def mount_points():
    with open("/proc/self/mountinfo") as table:
        return [line.split()[4].encode().decode("unicode_escape") for line in table]


def main():
    private, *shared = sys.argv[1:]
    for point in mount_points():
        if not any(point == kept or point.startswith(kept + "/") for kept in KEPT_WRITABLE):
            mount("-o", "remount,bind,ro", point, check=False)
    for folder in shared:
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,rw", folder)
    for folder, mode in ((private, "0755"), ("/run", "0755"), ("/dev/shm", "1777")):
        mount("-t", "tmpfs", "-o", f"mode={mode}", "ferry-host", folder)
    mount("-t", "proc", "proc", "/proc")
    print("ready", flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
