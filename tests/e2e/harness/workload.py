"""What /bin/ferry-workload prints, taken apart.

`ferry-workload tick` prints a line for each millisecond at least, "tick NUMBER NANOSECONDS" with
numbers that rise by one and the guest's monotonic clock, and answers each line of its input with
"echo LINE".
"""
import itertools
import re

PROGRAM = "/bin/ferry-workload"
TICK = re.compile(rb"^tick (\d+) (\d+)$", re.M)
ECHO = re.compile(rb"^echo (.*)$", re.M)


def whole_lines(output):
    return output[:output.rfind(b"\n") + 1]


def ticks(output):
    """(number, guest nanoseconds) of every whole tick line."""
    return [(int(number), int(clock)) for number, clock in TICK.findall(whole_lines(output))]


def stopped_ms(client, before, after, samples=100):
    """How long the guest's clock stood still between two offsets of the output.

    The guest's clock stands while the VM does, ours does not: so the difference between the two
    grows by the blackout. Of some ticks on either side the one that came quickest counts.
    """
    def offset_between_clocks(start):
        output = client.output()
        if start > 0:
            start = output.find(b"\n", start) + 1
        matches = itertools.islice(TICK.finditer(output, start), samples)
        return min((client.arrival(match.end()) - int(match[2]) / 1e9 for match in matches),
                   default=0.0)
    return (offset_between_clocks(after) - offset_between_clocks(before)) * 1000


def strange_bytes(output):
    """Bytes in whole lines that are neither ticks nor echoes: traces of damage."""
    return sum(len(line) + 1 for line in whole_lines(output).split(b"\n")[:-1]
               if not TICK.match(line) and not ECHO.match(line))


def echoes(output):
    return ECHO.findall(whole_lines(output))


def lost_and_repeated(numbers, first=None):
    """How many numbers are missing from a sequence that rises by one, how many came again."""
    numbers = list(numbers)
    if not numbers:
        return 0, 0
    start = numbers[0] if first is None else first
    distinct = set(numbers)
    lost = max(distinct) - start + 1 - len({number for number in distinct if number >= start})
    return lost, len(numbers) - len(distinct)


def longest_tick_gap_ms(tick_list):
    """The longest time between two ticks by the guest's own clock."""
    clocks = [clock for _, clock in tick_list]
    return max((later - earlier for earlier, later in zip(clocks, clocks[1:])), default=0) / 1e6
