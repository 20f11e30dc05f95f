"""What takes long is a job: seen while it goes on, ended on request, and remembered afterwards."""

import pytest

from harness import booted, images
from harness.ctl import number
from harness.saving import REFUSED, host, own_files, start  # noqa: F401
from harness.waiting import wait_for

CANCELLED = 6
KEPT = 200  # of those that have ended
# So slow that it can be looked at.
SLOWLY = ("--compress", "zstd", "--compress-level", "19")


@pytest.fixture
def vm(two_hosts):
    """One that was booted here: a restore is a job, too."""
    two_hosts[0].ctl.start(booted.NAME)
    return booted.NAME


def jobs(host, *options):
    """By their start; of those that are under way, unless "--all" is given."""
    return host.ctl.json("job", "list", *options).get("jobs", [])


def job(host, job_id):
    return host.ctl.json("job", "inspect", job_id)


def state(of):
    return of["state"].removeprefix("JOB_STATE_")


def only(host, *options):
    found = jobs(host, *options)
    assert len(found) == 1, found
    return found[0]


def await_running(host, kind):
    """The job of that kind once there is one."""
    wait_for(lambda: jobs(host, "--kind", kind), f"no {kind} begins")
    return only(host, "--kind", kind)


def done(of):
    return number(of.get("progress", {}), "done")


def await_progress(host, job_id):
    wait_for(lambda: done(job(host, job_id)) > 0, "no progress is told")


def test_a_save_is_seen_from_its_beginning_to_its_end(host, vm):
    with host.ctl.attach("save", vm, "--compress", "zstd", "--compress-level", "12") as saving:
        begun = await_running(host, "save")
        assert begun["vm_name"] == vm and state(begun) == "RUNNING", begun
        assert number(begun["progress"], "total") == 256 << 20
        told = host.ctl.json("job", "watch", begun["id"][:8], timeout=180)
        assert saving.wait(240) == 0, saving.errors()
    amounts = [done(each) for each in told if each["progress"]["unit"] == "JOB_UNIT_BYTES"]
    assert amounts and amounts == sorted(amounts) and amounts[-1] > 0, amounts
    assert state(told[-1]) == "DONE" and "saved in /" in told[-1]["result"], told[-1]
    assert not jobs(host)
    # What it goes on from is another one; both are of this VM.
    start(host, vm)
    assert [each["kind"] for each in jobs(host, "--all", "--vm", vm)] == [
        "JOB_KIND_SAVE", "JOB_KIND_RESTORE"]
    assert state(only(host, "--all", "--kind", "restore")) == "DONE"
    table = host.ctl.ok("job", "list", "--all")
    assert table.split()[:7] == ["ID", "KIND", "VM", "STATE", "PROGRESS", "STARTED", "WHAT"]
    assert begun["id"] in table
    watched = host.ctl.run("job", "watch", begun["id"])
    assert watched.returncode == 0 and f"save of VM {vm} is done" in watched.stdout, watched


def test_a_save_that_is_cancelled_leaves_the_vm_running(host, vm):
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    with host.ctl.attach("save", vm, *SLOWLY) as saving:
        begun = await_running(host, "save")
        await_progress(host, begun["id"])
        assert host.ctl.run("job", "dismiss", begun["id"]).returncode == REFUSED
        with host.ctl.attach("job", "watch", begun["id"]) as watching:
            host.ctl.ok("job", "cancel", begun["id"])
            assert watching.wait() == CANCELLED, watching.errors()
            assert "was cancelled" in watching.errors()
        assert saving.wait() == CANCELLED, saving.errors()
        assert "runs on" in saving.errors()
    assert host.ctl.state(vm) == "running"
    assert not own_files(host, vm)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"
    assert state(job(host, begun["id"])) == "CANCELLED"
    again = host.ctl.run("job", "cancel", begun["id"])
    assert again.returncode == REFUSED and "was cancelled" in again.stderr, again


def assert_kept_over_a_restart(host, job_id):
    before = job(host, job_id)
    host.restart()
    after = job(host, job_id)
    for field in ("kind", "vm_id", "what", "state", "started_unix_ms", "ended_unix_ms", "progress",
                  "result", "error"):
        assert after.get(field) == before.get(field), field


def test_an_import_is_a_job(host, tmp_path):
    archive = images.make_tar({"data": bytes(8 << 20), "bin": None})
    half = len(archive) // 2
    with host.ctl.attach("image", "import", "web", "-") as importing:
        importing.write(archive[:half])
        begun = await_running(host, "import")
        assert begun["what"] == "image web", begun
        await_progress(host, begun["id"])
        assert begun["id"] in host.ctl.ok("job", "list")
        importing.write(archive[half:])
        importing.close_stdin()
        assert importing.wait() == 0, importing.errors()
    assert "web:latest" in job(host, begun["id"])["result"]
    # One that is called off leaves nothing.
    with host.ctl.attach("image", "import", "db", "-") as importing:
        importing.write(archive[:half])
        other = await_running(host, "import")
        host.ctl.ok("job", "cancel", other["id"])
        assert importing.wait() == CANCELLED, importing.errors()
    assert [image["name"] for image in host.ctl.json("image", "list")["images"]] == ["web:latest"]
    assert state(job(host, other["id"])) == "CANCELLED"
    # Nor does one whose client goes away.
    with host.ctl.attach("image", "import", "db", "-") as importing:
        importing.write(archive[:half])
        third = await_running(host, "import")
    wait_for(lambda: state(job(host, third["id"])) == "FAILED", "it does not end")
    for each in (begun, other, third):
        assert_kept_over_a_restart(host, each["id"])
    # What they had received so far goes, too.
    made = host.outside(host.state) / "images" / "tmp"
    assert made.is_dir()
    wait_for(lambda: not list(made.iterdir()), "something of them is left")


def test_a_migration_is_cancelled_as_a_job(two_hosts, vm):
    source, destination = two_hosts
    with source.ctl.start_migration(vm, destination, "--max-bandwidth", "1M") as migrating:
        begun = await_running(source, "migration")
        assert begun["id"] in [session["session_id"] for session in source.ctl.sessions()]
        assert begun["what"] == f"to {destination.address}", begun
        wait_for(lambda: number(job(source, begun["id"]).get("progress", {}), "total") > 0,
                   "no progress is told")
        with source.ctl.attach("job", "watch", begun["id"]) as watching:
            watching.wait_until(lambda output: b"moving memory" in output)
            source.ctl.ok("job", "cancel", begun["id"])
            assert watching.wait() == CANCELLED, watching.errors()
        assert migrating.wait() == CANCELLED, migrating.errors()
    assert source.ctl.state(vm) == "running"
    assert state(job(source, begun["id"])) == "CANCELLED"
    assert not jobs(destination, "--all")
    assert_kept_over_a_restart(source, begun["id"])
    # Of a migration there is more than its job.
    source.ctl.ok("job", "dismiss", begun["id"])
    source.restart()
    assert not jobs(source, "--all", "--kind", "migration")
    assert begun["id"] in [session["session_id"] for session in source.ctl.sessions()]


def test_one_that_has_ended_is_kept_until_it_is_dismissed(host, vm):
    refused = host.ctl.run("save", vm, "--to", "/no/such/folder/file")
    assert refused.returncode != 0
    host.ctl.ok("stop", "--save", vm)
    failed, saved = jobs(host, "--all")
    assert [state(failed), state(saved)] == ["FAILED", "DONE"]
    assert "/no/such/folder" in failed["error"]["message"], failed
    for each in (failed, saved):
        assert_kept_over_a_restart(host, each["id"])
    watched = host.ctl.run("job", "watch", failed["id"])
    assert watched.returncode != 0 and "/no/such/folder" in watched.stderr, watched
    host.ctl.ok("job", "dismiss", failed["id"], saved["id"])
    assert host.ctl.run("job", "dismiss", failed["id"]).returncode == REFUSED
    assert host.ctl.run("job", "inspect", failed["id"]).returncode == REFUSED
    host.restart()
    assert not jobs(host, "--all")


@pytest.mark.parametrize("point, then", [("SAVE.written", "FAILED"), ("SAVE.recorded", "DONE")])
def test_a_daemon_that_dies_while_it_saves(host, vm, point, then):
    host.die_at(point, "stop", "--save", vm)
    left = only(host, "--all")
    assert state(left) == then, left
    if then == "FAILED":
        assert left["error"]["message"] == "ferryd ended while it ran", left
        watched = host.ctl.run("job", "watch", left["id"])
        assert watched.returncode == 1 and "ferryd ended" in watched.stderr, watched


def test_a_daemon_that_dies_once_a_checkpoint_is_taken_or_gone(host, vm):
    """What was asked for has been done, whether or not anybody was told."""
    take = ("checkpoint", "create", vm, "x", "--live", "--memory-only")
    for point, command, result in (("CHECKPOINT.whole", take, "took x"),
                                   ("CHECKPOINT.deleted", ("checkpoint", "delete", vm, "x"),
                                    "deleted x")):
        host.die_at(point, *command)
        left, = [each for each in jobs(host, "--all") if each["what"] == " ".join(
            ("take" if command is take else "delete", "x"))]
        assert (state(left), left["result"]) == ("DONE", result), left
    host.die_at("CHECKPOINT.written", *take)
    assert [state(each) for each in jobs(host, "--all")] == ["DONE", "DONE", "FAILED"]


def test_only_the_newest_are_kept(host, vm):
    failing = ("save", vm, "--to", "/no/such/folder/file")
    assert host.ctl.run(*failing).returncode != 0
    first = only(host, "--all")["id"]
    for _ in range(KEPT):
        host.ctl.run(*failing)
    kept = [each["id"] for each in jobs(host, "--all")]
    assert len(kept) == KEPT
    assert first not in kept
