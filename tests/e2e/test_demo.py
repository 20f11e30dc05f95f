"""The demo still runs, and says on one line what it measured; how fast is none of a test's
business."""
import json
import pathlib
import re
import subprocess

DEMO = pathlib.Path(__file__).resolve().parents[2] / "tools/demo"


def test_json_is_one_object_on_the_last_line():
    run = subprocess.run([DEMO, "--json"], timeout=500, text=True,
                         capture_output=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    assert "Killed" not in run.stderr, "how its hosts end is nothing to worry people with"
    result = json.loads(run.stdout.splitlines()[-1])
    assert [(migration["from"], migration["to"]) for migration in result["migrations"]] == [
        ("a", "b"), ("b", "a")]
    for migration in result["migrations"]:
        for name in ("total_ms", "blackout_ms", "stdio_gap_ms", "transferred_bytes"):
            assert migration[name] > 0, (name, migration)
        assert migration["lost_bytes"] == migration["duplicated_bytes"] == 0
        assert migration["vm_runs_on"] and migration["tick_gap_ms"] > 0
        parts = sum(migration[f"blackout_{part}_ms"] for part in ("device", "commit", "resume"))
        assert 0 < parts <= migration["blackout_ms"] + 0.1
        assert 0 < migration["tick_step_ms"] <= migration["tick_gap_ms"]
        # It is told for people, too.
        assert re.search(rf"migrating VM demo from host {migration['from']}", run.stderr)
    for row in ("total", "blackout", "by the guest's clock", "stdio gap", "sent", "lost",
                "duplicated", "the VM runs on"):
        # Lines that come too seldom compare no clocks.
        figure = r"[\d?]" if "clock" in row else r"\d"
        shown = re.findall(rf"^ +{row}  .*{figure}|^ +{row} +host [ab],", run.stderr, re.M)
        assert len(shown) == 2, (row, run.stderr)
    assert re.search(r"pass \d+  \[[#.]+\] +\d+\.\d MB left", run.stderr), run.stderr
    # The guest's clock stands still from STOP to RESUME, as the daemons measured it.
    compared = [(migration["guest_clock_stopped_ms"], migration["guest_clock_uncertainty_ms"],
                 migration["blackout_ms"]) for migration in result["migrations"]
                if migration["guest_clock_stopped_ms"] is not None]
    assert compared, "its lines came too seldom"
    for stopped, uncertainty, blackout in compared:
        assert abs(stopped - blackout) <= max(4 * uncertainty, 20), result
    assert result["lost_bytes"] == result["duplicated_bytes"] == 0
    assert result["exit_status"] == 0
    assert result["accelerator"] in ("kvm", "tcg")
