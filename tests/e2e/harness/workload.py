"""What /bin/ferry-workload prints, taken apart.

`ferry-workload tick` prints a line for each millisecond at least, "tick NUMBER NANOSECONDS" with
numbers that rise by one and the guest's monotonic clock, and answers each line of its input with
"echo LINE". `ferry-workload keys` prints "read HEX" for what it reads.
"""
import re
import statistics

PROGRAM = "/bin/ferry-workload"
TICK = re.compile(rb"^tick (\d+) (\d+)$", re.M)
ECHO = re.compile(rb"^echo (.*)$", re.M)
READ = re.compile(rb"^read ([0-9a-f]+)\r*$", re.M)
BIN_SECONDS = 0.05
MIN_BINS = 5


def attach(host, vm, *arguments):
    """A ferryctl that is attached to a workload of its own in the VM."""
    return host.ctl.attach("exec", "-i", vm, "--", PROGRAM, *arguments)


def attach_ticker(host, vm):
    """The same for one that ticks, and does so already."""
    client = attach(host, vm, "tick")
    client.wait_until(lambda output: b"tick" in output)
    return client


def whole_lines(output):
    return output[:output.rfind(b"\n") + 1]


def ticks(output):
    """(number, guest nanoseconds) of every whole tick line."""
    return [(int(number), int(clock)) for number, clock in TICK.findall(whole_lines(output))]


def timed_ticks(client, start, end):
    """(arrival here, guest's clock), in seconds, of the whole tick lines between two offsets."""
    output = client.output()[:end]
    if start > 0:
        start = output.find(b"\n", start) + 1
    return [(client.arrival(match.end()), int(match[2]) / 1e9)
            for match in TICK.finditer(output, start)]


def stopped_ms(before, after):
    """How long the guest's clock stood still between two runs of timed ticks: (ms, uncertainty).

    While the VM runs both clocks run, while it stands only ours does: so the difference between
    them grows by the time that the VM stood. A line is on its way for a while, a millisecond or
    tens of them, which adds to the difference. So of every 50 ms only the line that came quickest
    counts, and of those the median. What they scatter by is the uncertainty, together with the
    step between two ticks, which bounds how well a line can mark a moment. None, None if a run is
    too short for that.
    """
    sides = [_quickest(run) for run in (before, after)]
    if min(map(len, sides)) < MIN_BINS:
        return None, None
    (low, start, high), (later_low, end, later_high) = map(_quartiles, sides)
    step = statistics.median(later - earlier for run in (before, after)
                             for (_, earlier), (_, later) in zip(run, run[1:]))
    return (end - start) * 1000, (high - low + later_high - later_low + step) * 1000


def _quickest(ticks):
    bins = {}
    for arrival, clock in ticks:
        index = int(arrival / BIN_SECONDS)
        bins[index] = min(bins.get(index, arrival - clock), arrival - clock)
    return list(bins.values())


def _quartiles(values):
    return statistics.quantiles(values, n=4)


def strange_bytes(output):
    """Bytes in whole lines that are neither ticks nor echoes: traces of damage."""
    return sum(len(line) + 1 for line in whole_lines(output).split(b"\n")[:-1]
               if not TICK.match(line) and not ECHO.match(line))


def echoes(output):
    return ECHO.findall(whole_lines(output))


def keys_read(screen):
    """All that `keys` says it has read."""
    return b"".join(bytes.fromhex(hexes.decode()) for hexes in READ.findall(whole_lines(screen)))


def lost_and_repeated(numbers, first=None):
    """How many numbers are missing from a sequence that rises by one, how many came again."""
    numbers = list(numbers)
    if not numbers:
        return 0, 0
    start = numbers[0] if first is None else first
    distinct = set(numbers)
    lost = max(distinct) - start + 1 - len({number for number in distinct if number >= start})
    return lost, len(numbers) - len(distinct)


def tick_step_ms(tick_list):
    """The usual time between two ticks by the guest's own clock."""
    clocks = [clock for _, clock in tick_list]
    return statistics.median(later - earlier for earlier, later in zip(clocks, clocks[1:])) / 1e6


def longest_tick_gap_ms(tick_list):
    """The longest time between two ticks by the guest's own clock."""
    clocks = [clock for _, clock in tick_list]
    return max((later - earlier for earlier, later in zip(clocks, clocks[1:])), default=0) / 1e6
