"""The benchmark still runs; how fast is none of a test's business."""
import json
import pathlib
import subprocess
import sys

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench/migration_bench.py"


def test_one_round_of_the_migration_benchmark_measures_everything():
    run = subprocess.run([sys.executable, BENCH, "--rounds", "1", "--json"], timeout=600,
                         text=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["setting"]["rounds"] == len(result["rounds"]) == 1
    wanted = {"total_ms", "setup_ms", "transfer_ms", "blackout_ms", "sent_bytes", "passes"}
    [measured] = result["rounds"]
    assert measured.keys() == {"raw", "idle", "attached"}
    for numbers in measured.values():
        assert wanted <= numbers.keys() and min(numbers.values()) > 0, numbers
    assert {"stdio_gap_ms", "steady_gap_ms"} <= measured["attached"].keys()
    assert result["summary"]["ratio"].keys() == {"total_ms", "setup_ms", "transfer_ms",
                                                 "blackout_ms"}
    assert result["summary"]["idle"]["blackout_ms"].keys() >= {"p50", "p99"}
