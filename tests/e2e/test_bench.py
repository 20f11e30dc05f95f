"""The benchmarks still run; how fast is none of a test's business."""
import json
import pathlib
import subprocess
import sys

BENCHES = pathlib.Path(__file__).resolve().parents[1] / "bench"


def one_round(bench, *options):
    run = subprocess.run([sys.executable, BENCHES / bench, "--rounds", "1", "--json", *options],
                         timeout=600, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["setting"]["rounds"] == len(result["rounds"]) == 1
    return result


def test_one_round_of_the_saving_benchmark_measures_everything(tmp_path):
    result = one_round("saving_bench.py", "--fill", "16", "--disk", tmp_path)
    [measured] = result["rounds"]
    seen = {"took_ms", "stood_ms", "gap_ms", "file_bytes"}
    back = {"took_ms", "first_output_ms", "console_ms"}
    wanted = {
        "save": ({"took_ms", "file_bytes"}, seen),
        "save-zstd": ({"took_ms", "file_bytes"}, set()),
        "save-live": (seen, seen),
        "restore": (back, {"took_ms", "console_ms"}),
        "restore-zstd": (back, None),
        "boot": ({"first_output_ms"}, {"first_output_ms"}),
        "disk": (None, {"took_ms"}),
        "checkpoint": (seen | {"reported_ms"}, seen),
        "checkpoint-live": (seen | {"reported_ms"}, seen),
        "checkpoint-disk": ({"took_ms", "gap_ms"}, {"took_ms", "gap_ms"}),
        "snapshot": (seen, seen),
        "steady": ({"gap_ms"}, None),
    }
    assert measured.keys() == wanted.keys()
    for name, sides in wanted.items():
        for side, measures in zip(("ferry", "raw"), sides):
            assert (side in measured[name]) == (measures is not None), (name, side)
            for measure in measures or ():
                assert measured[name][side][measure] > 0, (name, side, measure)
        if all(sides) and "took_ms" in sides[0]:
            assert result["summary"][name]["ratio"]["took_ms"]["p50"] > 0
    # Nothing of it is left.
    assert not list(tmp_path.iterdir())


def test_one_round_of_the_disk_benchmark_measures_everything(tmp_path):
    result = one_round("disk_bench.py", "--fill", "16", "--disk", tmp_path)
    [measured] = result["rounds"]
    assert measured.keys() == {"stopped", "running", "alone", "blackouts"}
    for name in ("stopped", "running", "alone"):
        assert all(side["took_ms"] > 0 for side in measured[name].values()), measured
    assert sorted(measured["blackouts"]) == ["0", "1", "2"]
    assert min(measured["blackouts"].values()) > 0
    for way in ("stopped", "running"):
        assert result["summary"][way]["ratio"]["p50"] > 0
    # Nothing of it is left.
    assert not list(tmp_path.iterdir())


def test_one_round_of_the_network_benchmark_measures_everything(isolated):
    [measured] = one_round("network_bench.py")["rounds"]
    assert measured["moved"]["blackout_ms"] > 0
    for name in ("moved", "rest"):
        for kind in ("IPv4", "IPv6"):
            assert measured[name][kind]["gap_ms"] > 0 and measured[name][kind]["sent"] > 0


def test_one_round_of_the_migration_benchmark_measures_everything():
    result = one_round("migration_bench.py")
    wanted = {"total_ms", "setup_ms", "transfer_ms", "blackout_ms", "sent_bytes", "passes"}
    [measured] = result["rounds"]
    assert measured.keys() == {"raw", "idle", "attached"}
    for numbers in measured.values():
        assert wanted <= numbers.keys() and min(numbers.values()) > 0, numbers
    assert {"stdio_gap_ms", "steady_gap_ms"} <= measured["attached"].keys()
    assert result["summary"]["ratio"].keys() == {"total_ms", "setup_ms", "transfer_ms",
                                                 "blackout_ms"}
    assert result["summary"]["idle"]["blackout_ms"].keys() >= {"p50", "p99"}
