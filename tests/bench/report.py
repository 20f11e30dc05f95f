"""From the rounds of the migration benchmark to numbers for people."""
import math
import statistics

# (row, its measure, of which migration)
ROWS = [
    ("QEMU alone: total", "raw", "total_ms"),
    ("  set-up", "raw", "setup_ms"),
    ("  transfer", "raw", "transfer_ms"),
    ("  blackout", "raw", "blackout_ms"),
    ("Ferry, idle VM: total", "idle", "total_ms"),
    ("  set-up", "idle", "setup_ms"),
    ("  transfer", "idle", "transfer_ms"),
    ("  blackout", "idle", "blackout_ms"),
    ("    to the destination's vote", "idle", "blackout_device_ms"),
    ("    to COMMIT", "idle", "blackout_commit_ms"),
    ("    to the running VM", "idle", "blackout_resume_ms"),
    ("    as Ferry reports it", "idle", "reported_blackout_ms"),
    ("QEMU, printing VM: total", "printing", "total_ms"),
    ("  blackout", "printing", "blackout_ms"),
    ("  stdio gap", "printing", "stdio_gap_ms"),
    ("  longest gap before, in 2 s", "printing", "steady_gap_ms"),
    ("Ferry, printing VM: total", "attached", "total_ms"),
    ("  blackout", "attached", "blackout_ms"),
    ("  stdio gap", "attached", "stdio_gap_ms"),
    ("  longest gap before, in 2 s", "attached", "steady_gap_ms"),
    ("Ferry, stopped reader: total", "stopped", "total_ms"),
    ("  blackout", "stopped", "blackout_ms"),
]
# Of a migration against another one in the same round: (name, what it is called, the one, the
# other, their measures).
RATIOS = [
    ("ratio", "Ferry / QEMU, idle VM", "idle", "raw",
     ("total_ms", "setup_ms", "transfer_ms", "blackout_ms")),
    ("printing_ratio", "Ferry / QEMU, printing VM", "attached", "printing",
     ("total_ms", "blackout_ms", "stdio_gap_ms")),
    ("stopped_ratio", "stopped reader / idle VM", "stopped", "idle",
     ("total_ms", "blackout_ms")),
]
MIB = 1 << 20


def percentile(values, share):
    """Of few values the nearest rank: p99 of fewer than 100 is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values):
    return {
        "p50": statistics.median(values),
        "p99": percentile(values, 0.99),
        "min": min(values),
        "max": max(values),
        "p25": percentile(values, 0.25),
        "p75": percentile(values, 0.75),
    }


def summarize(rounds):
    """Of every measure the spread over the rounds, and of Ferry against QEMU that of the ratios."""
    summary = {}
    for kind in ("raw", "idle", "printing", "attached", "stopped"):
        measures = rounds[0][kind]
        summary[kind] = {measure: spread([each[kind][measure] for each in rounds])
                         for measure in measures}
    for name, _, one, other, measures in RATIOS:
        summary[name] = {measure: spread([each[one][measure] / each[other][measure]
                                          for each in rounds]) for measure in measures}
    return summary


def table(setting, summary):
    lines = [f"{setting['rounds']} rounds, VM of {setting['memory_mib']} MiB and "
             f"{setting['cpus']} CPU under {setting['accelerator']}; host: {setting['host_cpus']} "
             f"CPUs, load {setting['host_load']:.1f} at the end, "
             + ("two network namespaces" if setting["isolated_hosts"] else "loopback"),
             f"between the daemons: {'TLS' if setting['tls'] else 'plain TCP'}; journals: on "
             + ("a disk" if setting["journal"] == "disk" else "a file system in memory"),
             "",
             f"{'ms':<32}{'p50':>9}{'p99':>9}{'min':>9}{'max':>9}"]
    for name, kind, measure in ROWS:
        row = summary[kind][measure]
        lines.append(f"{name:<32}" + "".join(f"{row[column]:>9.1f}"
                                             for column in ("p50", "p99", "min", "max")))
    for name, words, _, _, measures in RATIOS:
        lines += ["", f"{words:<32}{'p50':>9}{'p25':>9}{'p75':>9}{'max':>9}"]
        for measure in measures:
            row = summary[name][measure]
            what = measure.removesuffix("_ms").replace("_", " ")
            lines.append(f"  {what:<30}" + "".join(f"{row[column]:>9.2f}"
                                                   for column in ("p50", "p25", "p75", "max")))
    sent = [summary[kind]["sent_bytes"]["p50"] / MIB for kind in ("raw", "idle")]
    passes = [summary[kind]["passes"]["p50"] for kind in ("raw", "idle")]
    lines += ["", f"sent: QEMU {sent[0]:.1f} MiB in {passes[0]:.0f} passes, "
                  f"Ferry {sent[1]:.1f} MiB in {passes[1]:.0f} passes (medians)"]
    return "\n".join(lines)
