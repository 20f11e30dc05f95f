"""What the kernel says of a process."""


def _fields(stat):
    """What stands behind the program's name in /proc/PID/stat, which may hold anything itself."""
    return stat.rpartition(")")[2].split()


def state(stat):
    """Its state as a letter, by the text of /proc/PID/stat."""
    return _fields(stat)[0]


def niceness(stat):
    return int(_fields(stat)[16])
