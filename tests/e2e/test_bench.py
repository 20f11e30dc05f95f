"""The benchmarks still run; how fast is none of a test's business."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from harness.build import build_folder

BENCHES = pathlib.Path(__file__).resolve().parents[1] / "bench"


def run(*command):
    """What a benchmark prints."""
    done = subprocess.run(command, timeout=600, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(bench, *options):
    return json.loads(run(sys.executable, BENCHES / bench, "--json", *options))


def one_round(bench, *options):
    result = measure(bench, "--rounds", "1", *options)
    assert result["setting"]["rounds"] == len(result["rounds"]) == 1
    return result


def measure_natively(folder, program, *options):
    """{name: result} of a benchmark in C++."""
    report = folder / "report.json"
    run(build_folder() / "tests/bench" / program, f"--benchmark_out={report}", *options)
    results = {each["name"]: each for each in json.loads(report.read_text())["benchmarks"]}
    assert not any("error_occurred" in each for each in results.values()), results
    return results


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


def test_one_round_of_the_copy_benchmark_measures_everything(isolated):
    # Sockets lie in it, so its path is short.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        result = one_round("copy_bench.py", "--fill", "16", "--disk", folder)
        # Nothing of it is left.
        assert not os.listdir(folder)
    [measured] = result["rounds"]
    assert measured.keys() == {"convert", "mirror", "ferry", "blackouts"}
    for way in ("convert", "mirror", "ferry"):
        assert min(measured[way].values()) > 0, measured
    assert sorted(measured["blackouts"]) == ["0", "1", "2"]
    assert min(measured["blackouts"].values()) > 0
    for way in ("convert", "mirror"):
        assert result["summary"]["ratio"][way]["p50"] > 0


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
    assert measured.keys() == {"raw", "idle", "printing", "attached", "stopped"}
    for numbers in measured.values():
        assert wanted <= numbers.keys() and min(numbers.values()) > 0, numbers
    for kind in ("printing", "attached"):
        assert measured[kind]["stdio_gap_ms"] > 0 and measured[kind]["steady_gap_ms"] > 0, kind
    assert result["summary"]["printing_ratio"].keys() == {"total_ms", "blackout_ms",
                                                          "stdio_gap_ms"}
    assert result["summary"]["stopped_ratio"].keys() == {"total_ms", "blackout_ms"}
    assert result["summary"]["ratio"].keys() == {"total_ms", "setup_ms", "transfer_ms",
                                                 "blackout_ms"}
    assert result["summary"]["idle"]["blackout_ms"].keys() >= {"p50", "p99"}


def test_one_round_of_the_container_benchmark_measures_everything():
    result = measure("container_bench.py", "--rounds", "1", "--size", "1", "--many", "1")
    setting = result["setting"]
    assert (setting["rounds"], setting["size_mib"], setting["many"]) == (1, 1, 1)
    assert setting["accelerator"] in ("kvm", "tcg")
    waited, rated, used = result["ms"], result["mib_per_s"], result["kib"]
    assert waited.keys() == {
        "ferryctl alone (vm inspect)", "exec in a VM", "exec in a container",
        "run in a VM that is there, to the first byte", "VM start and stop alone",
        "run with a VM of its own, to the first byte"}
    assert rated.keys() == {
        "a pipe within the VM", "one stream out of a VM", "64 streams out of a VM",
        "one stream out of a container", "one stream into a VM"}
    # Each is waited for by people, and was not forgotten for hours.
    assert all(0 < value < 600_000 for value in waited.values()), waited
    assert min(rated.values()) > 0, rated
    daemon = used.pop("ferryd with one VM and one container")
    assert daemon > 1024 and used.pop("guest agent with one container") > 100
    # Of one thing more the daemon may well have had the memory already.
    assert used.keys() == {
        "ferryd, per container", "guest agent, per container",
        "ferryd, per attached process (3 streams)", "ferryd, per VM"}
    assert all(abs(value) < daemon for value in used.values()), used


def test_a_round_of_the_profiles_says_how_each_ended():
    results = measure("profile_bench.py", "--memory", "128", "--dirty", "16")["results"]
    assert [each["profile"] for each in results] == ["gentle", "balanced", "must-finish"]
    for each in results:
        assert each["outcome"] and each["memory_passes"] > 0, each
        assert each["outcome"] != "moved" or min(each["total_ms"], each["blackout_ms"]) > 0, each
    assert results[-1]["outcome"] == "moved", results


def test_one_round_of_the_relay_benchmark_measures_everything(tmp_path):
    [measured] = measure_natively(tmp_path, "ferry_bench_relay", "1").values()
    assert measured["iterations"] == 1 and measured["real_time"] > 0
    for name in ("direct_GiB/s", "splice_GiB/s", "session_GiB/s", "tls_GiB/s",
                 "session/direct_time", "session/splice_time", "tls/session_time"):
        assert measured[name] > 0, measured


def test_one_round_of_the_stdio_benchmark_measures_everything(tmp_path):
    results = measure_natively(tmp_path, "ferry_bench_stdio", "--benchmark_min_time=0.001")
    wanted = {f"{way}/{far}/{streams}/manual_time" for way in ("Relay", "RelayAndGrpc")
              for far in ("host_by_sockets", "host_by_serial", "agent_by_serial")
              for streams in (1, 64)}
    assert results.keys() == wanted | {"BM_OnlyCopied/manual_time"}
    assert all(each["bytes_per_second"] > 0 for each in results.values()), results
