"""From the rounds of the benchmark of VMs in files to numbers for people."""
from report import MIB, spread

# (title, what was done, [(row, measure)])
SECTIONS = [
    ("save", "save", [("until it is on the disk", "took_ms")]),
    ("save --compress zstd", "save-zstd", [("until it is on the disk", "took_ms")]),
    ("save --live", "save-live", [("until it is on the disk", "took_ms"),
                                  ("guest stands still", "stood_ms"),
                                  ("reader hears nothing", "gap_ms")]),
    ("start of what was saved", "restore", [("until it runs", "took_ms"),
                                            ("first output, console", "console_ms"),
                                            ("first output, reader", "first_output_ms")]),
    ("the same, with zstd", "restore-zstd", [("until it runs", "took_ms"),
                                             ("first output, console", "console_ms"),
                                             ("first output, reader", "first_output_ms")]),
    ("boot", "boot", [("first output", "first_output_ms")]),
    *((title, name, [("until it is done", "took_ms"), ("guest stands still", "stood_ms"),
                     ("  as Ferry reports it", "reported_ms"),
                     ("reader hears nothing", "gap_ms")])
      for title, name in (("checkpoint create", "checkpoint"),
                          ("checkpoint create --live", "checkpoint-live"),
                          ("checkpoint create --disk-only", "checkpoint-disk"),
                          ("snapshot save", "snapshot"))),
    ("nothing, for 2 s", "steady", [("reader hears nothing", "gap_ms")]),
]
SIZES = [("save", "save"), ("save --compress zstd", "save-zstd"), ("save --live", "save-live"),
         ("checkpoint create: memory", "checkpoint"),
         ("checkpoint create --live: memory", "checkpoint-live"),
         ("snapshot save: memory", "snapshot")]


def summarize(rounds):
    """Of every measure the spread over the rounds, and that of Ferry against QEMU, pair by pair."""
    summary = {}
    for name in rounds[0]:
        sides = rounds[0][name]
        summary[name] = {side: {measure: spread([each[name][side][measure] for each in rounds])
                                for measure in sides[side]} for side in sides}
        shared = sides.get("raw", {}).keys() & sides.get("ferry", {}).keys()
        summary[name]["ratio"] = {
            measure: spread([each[name]["ferry"][measure] / each[name]["raw"][measure]
                             for each in rounds])
            for measure in sorted(shared) if all(each[name]["raw"][measure] for each in rounds)}
    summary["against_boot"] = {"first_output_ms": spread(
        [each["restore"]["ferry"]["first_output_ms"] / each["boot"]["ferry"]["first_output_ms"]
         for each in rounds])}
    summary["against_disk"] = {side: {"took_ms": spread(
        [each["save"][side]["took_ms"] / each["disk"]["raw"]["took_ms"] for each in rounds])}
        for side in ("raw", "ferry")}
    return summary


def line(title, values, ratio=None, unit=""):
    cells = "".join(f"{'-' if value is None else format(value, '.1f'):>12}" for value in values)
    if ratio is not None:
        cells += "".join(f"{ratio[column]:>8.2f}" for column in ("p50", "min", "max"))
    return f"{title:<34}{cells}{unit}"


def median(summary, name, side, measure):
    spread_of = summary[name].get(side, {}).get(measure)
    return None if spread_of is None else spread_of["p50"]


def times(summary):
    lines = [f"{'ms, medians':<34}{'QEMU alone':>12}{'Ferry':>12}{'ratio':>8}{'min':>8}{'max':>8}"]
    for title, name, rows in SECTIONS:
        lines.append(title)
        for row, measure in rows:
            values = [median(summary, name, side, measure) for side in ("raw", "ferry")]
            if values != [None, None]:
                lines.append(line("  " + row, values, summary[name]["ratio"].get(measure)))
    return lines


def sizes(summary):
    lines = ["", f"{'MiB, medians':<34}{'QEMU alone':>12}{'Ferry':>12}"]
    for title, name in SIZES:
        values = [median(summary, name, side, "file_bytes") for side in ("raw", "ferry")]
        lines.append(line("  " + title, [each and each / MIB for each in values]))
    lines += ["", f"{'MiB/s of a save':<34}{'QEMU alone':>12}{'Ferry':>12}{'disk alone':>12}"]
    for title, name, sides in (("  none", "save", ("raw", "ferry", "disk")),
                               ("  zstd, of what it writes", "save-zstd", ("raw", "ferry"))):
        lines.append(line(title, [rate(summary, name, side) for side in sides]))
    return lines


def rate(summary, name, side):
    """By the medians. The disk alone has written what QEMU alone has."""
    writer = "raw" if side == "disk" else side
    took = median(summary, "disk" if side == "disk" else name, writer, "took_ms")
    size = median(summary, name, writer, "file_bytes")
    return None if took is None else size / MIB / took * 1000


def table(setting, summary):
    against = summary["against_disk"]
    boot = summary["against_boot"]["first_output_ms"]
    return "\n".join([
        f"{setting['rounds']} rounds, VM of {setting['memory_mib']} MiB with "
        f"{setting['fill_mib']} MiB written to and {setting['cpus']} CPU under "
        f"{setting['accelerator']}; host: {setting['host_cpus']} CPUs, load "
        f"{setting['host_load']:.1f} at the end", "",
        *times(summary), *sizes(summary), "",
        "save against writing as many bytes to the disk: QEMU alone "
        f"{against['raw']['took_ms']['p50']:.2f}, Ferry {against['ferry']['took_ms']['p50']:.2f}",
        "start of what was saved against a boot, to the first output a reader hears: "
        f"{boot['p50']:.3f}"])
