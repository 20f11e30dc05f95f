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
    result = one_round("saving_bench.py", "--memory", "256", "--fill", "20", "--disk", tmp_path)
    [measured] = result["rounds"]
    assert measured.keys() == {"raw", "ferry", "live", "boot"}
    assert measured["raw"].keys() == {"save_ms", "restore_ms", "file_bytes"}
    assert measured["ferry"].keys() >= {"save_ms", "restore_ms", "first_output_ms", "gap_ms"}
    for numbers in measured.values():
        assert min(numbers.values()) > 0, numbers
    # Nothing of it is left.
    assert not list(tmp_path.iterdir())


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
