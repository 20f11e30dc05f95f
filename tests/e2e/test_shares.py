"""Folders of a host that its containers see live, in VMs that stay there."""
import pytest

from harness import box
from harness.ctl import parse_json
from harness.oracles import assert_next_step
from harness.waiting import wait_for

REFUSED = 4
OWN_FAILURE = 125


@pytest.fixture
def host(bare_hosts, tmp_path):
    """One that has the image."""
    bare_hosts[0].start()
    box.import_into(bare_hosts[0], tmp_path)
    return bare_hosts[0]


class Folder:
    """A folder of a host, by the path that the host knows it under."""

    def __init__(self, host, name):
        self.path = host.folder / name
        self._host = host
        self.outside().mkdir()

    def outside(self, name=""):
        return self._host.outside(self.path / name) if name else self._host.outside(self.path)

    def write(self, name, text):
        self.outside(name).write_text(text)

    def read(self, name):
        return self.outside(name).read_text()

    def __str__(self):
        return str(self.path)


@pytest.fixture
def folder(host):
    made = Folder(host, "shared")
    made.write("greeting", "from the host\n")
    return made


@pytest.fixture
def stays(host, folder):
    """The name of a running VM with that folder."""
    host.ctl.ok("vm", "create", "stays", "--stays", "--share", folder)
    host.ctl.start("stays")
    return "stays"


def in_container(host, name, script):
    return host.ctl.run("exec", "--container", name, "--", "sh", "-c", script)


def servers(host):
    return host.processes("virtiofsd")


def assert_no_server_left(host):
    wait_for(lambda: servers(host) == [], f"still there: {servers(host)}")
    folders = [path for path in host.outside(host.state / "vm").iterdir() if path.is_dir()]
    assert folders == []


def test_a_container_reads_and_writes_a_folder_of_the_host(host, folder):
    script = "cat /in/greeting; echo written >/in/new; readlink /in/link; cat /in/link; pwd"
    folder.outside("link").symlink_to("greeting")
    result = host.ctl.run("run", "--stays", "--rm", "-v", f"{folder}:/in", "-w", "/in", box.NAME,
                          "sh", "-c", script)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert result.stdout == "from the host\ngreeting\nfrom the host\n/in\n"
    assert folder.read("new") == "written\n"
    assert host.ctl.vms() == []
    assert_no_server_left(host)
    # The folder is the host's own, and stays.
    assert sorted(path.name for path in folder.outside().iterdir()) == ["greeting", "link", "new"]


def test_what_one_side_changes_the_other_sees(host, folder, stays):
    host.ctl.ok("run", "-d", "--name", "web", "--vm", stays, "-v", f"{folder}:/in/it", box.NAME,
                "sleep", "100000")
    folder.write("later", "one")
    assert in_container(host, "web", "cat /in/it/later").stdout == "one"
    folder.write("later", "another")
    wait_for(lambda: in_container(host, "web", "cat /in/it/later").stdout == "another", "no change")
    in_container(host, "web", "echo back >/in/it/later; mkdir /in/it/made; echo x >/in/it/made/x")
    assert folder.read("later") == "back\n" and folder.read("made/x") == "x\n"
    in_container(host, "web", "rm /in/it/later")
    assert not folder.outside("later").exists()
    # A folder within it, for another container; by way of what is no real path.
    again = host.ctl.run("run", "--rm", "--vm", stays, "-v", f"{folder}/made/../made:/here:ro",
                         box.NAME, "sh", "-c", "cat /here/x; echo y >/here/y")
    assert again.stdout == "x\n" and "Read-only file system" in again.stderr, again
    assert not folder.outside("made/y").exists()
    shown = host.ctl.ok("container", "inspect", "web")
    assert f"{folder} at /in/it" in shown
    assert f"{folder}" in host.ctl.ok("vm", "inspect", stays)
    assert host.ctl.vm(stays)["spec"]["stays"] is True


def test_read_only_holds_against_the_guest_itself(host, folder):
    other = Folder(host, "other")
    other.write("kept", "as it was\n")
    host.ctl.ok("vm", "create", "stays", "--stays", "--share", f"{folder}:ro", "--share", other)
    host.ctl.start("stays")
    host.ctl.ok("run", "-d", "--name", "web", "--vm", "stays", "-v", f"{folder}:/in:ro", "-v",
                f"{other}:/other:ro", box.NAME, "sleep", "100000")
    for place in ("/in/greeting", "/in/new", "/other/kept", "/other/new"):
        result = in_container(host, "web", f"echo changed >{place}")
        assert result.returncode != 0 and "Read-only file system" in result.stderr, (place, result)
    # Root of the guest mounts it anew as it likes: whoever serves it cannot write either.
    result = host.ctl.exec("stays", "sh", "-c",
                           "mkdir /m && mount -t virtiofs -o rw ferry-share-0 /m || "
                           "mount -o remount,rw /run/gcs/s/0; echo changed >/m/greeting; "
                           "echo changed >/run/gcs/s/0/greeting")
    assert result.returncode != 0, result
    assert folder.read("greeting") == "from the host\n"
    # What the host lets be written to, the guest can, but for devices.
    assert host.ctl.exec("stays", "touch", "/run/gcs/s/1/touched").returncode == 0
    assert host.ctl.exec("stays", "mknod", "/run/gcs/s/1/null", "c", "1", "3").returncode != 0
    assert sorted(path.name for path in other.outside().iterdir()) == ["kept", "touched"]
    refused = host.ctl.run("run", "--vm", "stays", "-v", f"{folder}:/in", box.NAME, "true")
    assert refused.returncode == OWN_FAILURE and "may be written to" in refused.stderr, refused
    assert_next_step(refused.stderr, ":ro")


def test_a_vm_that_stays_is_not_migrated(two_hosts, tmp_path):
    source, destination = two_hosts
    folder = Folder(source, "shared")
    source.ctl.ok("vm", "create", "stays", "--stays", "--share", folder)
    source.ctl.ok("vm", "create", "bare", "--stays")
    for vm in ("stays", "bare"):
        source.ctl.start(vm)
        refused = source.ctl.run("migrate", vm, "--to", destination.address)
        assert refused.returncode == REFUSED, refused
        assert "made to stay on this host" in refused.stderr, refused
        assert_next_step(refused.stderr, "--stays")
        dry = source.ctl.run("--output", "json", "migrate", vm, "--to", destination.address,
                             "--dry-run")
        assert dry.returncode == REFUSED, dry
        checks = {check["name"]: check for check in parse_json(dry.stdout)["checks"]}
        assert checks["stays"]["result"] == "PREFLIGHT_RESULT_FAIL"
        assert source.ctl.state(vm) == "running"
        source.ctl.ok("vm", "stop", vm, "--force")
    assert destination.ctl.vms() == []
    assert_no_server_left(source)


def test_a_vm_with_shares_is_not_saved_whoever_asks(host, folder, stays):
    file = host.folder / "file.ferry"
    checkpoint = ("checkpoint", "create", stays, "x")
    for instead, *words in (
            ("shut down", "vm", "create", "other", "--stays", "--share", folder, "--save-on-stop"),
            ("shut down", "vm", "set", stays, "--save-on-stop", "yes"), ("--no-save", "save", stays),
            ("--no-save", "save", stays, "--live", "--to", file),
            ("--no-save", "stop", stays, "--save"), ("--disk-only", *checkpoint),
            ("--disk-only", *checkpoint, "--memory-only", "--live", "--memspec", file)):
        refused = host.ctl.run(*words)
        assert refused.returncode == REFUSED, (words, refused)
        assert f"it shares folders of this host ({folder})" in refused.stderr, (words, refused)
        assert_next_step(refused.stderr, instead)
        assert host.ctl.state(stays) == "running", words
    assert [vm["name"] for vm in host.ctl.vms()] == [stays]
    assert not host.outside(file).exists()
    host.ctl.ok("vm", "set", stays, "--save-on-stop", "no")
    # Where only its host would have it saved, it is shut down.
    host.ctl.ok("vm", "set", stays, "--save-on-stop", "default")
    host.flags = ["--save-on-stop"]
    host.restart()
    stopped = host.ctl.run("stop", stays)
    assert stopped.returncode == 0 and "shut down instead" in stopped.stderr, stopped
    assert host.ctl.state(stays) == "stopped"


def test_what_cannot_be_shared_is_refused_and_leaves_nothing(host, folder, stays):
    host.ctl.create("moves")
    host.ctl.start("moves")
    folder.outside("out").symlink_to("/")
    for words, answer, next_step in (
            (["-v", f"{folder}:/in"], "could not move with the container", None),
            (["--vm", "moves", "-v", f"{folder}:/in"], "may move to another host", "--stays"),
            (["--vm", stays, "-v", "/etc:/in"], "lies in no share", "--share"),
            (["--vm", stays, "-v", f"{folder}/..:/in"], "lies in no share", "--share"),
            (["--vm", stays, "-v", f"{folder}/out/etc:/in"], "lies in no share", "--share"),
            (["--vm", stays, "-v", f"{folder}/none:/in"], "there is no folder", None),
            (["--vm", stays, "-v", "/none:/in"], "lies in no share", "--share"),
            (["--vm", stays, "-v", f"{folder}:/proc/x"], "the container's own", None),
            (["--vm", stays, "--stays", "-v", f"{folder}:/in"], "made for the container", None),
            (["--stays", "-v", f"{host.folder}/none:/in"], "there is no folder", None)):
        result = host.ctl.run("run", *words, box.NAME, "true")
        assert result.returncode == OWN_FAILURE, (words, result)
        assert answer in result.stderr, (words, result)
        if next_step:
            assert_next_step(result.stderr, next_step)
    assert box.containers(host) == []
    assert sorted(vm["name"] for vm in host.ctl.vms()) == ["moves", "stays"]
    refused = host.ctl.run("vm", "create", "other", "--share", folder)
    assert refused.returncode == 2 and "--stays" in refused.stderr, refused


def test_a_folder_that_is_gone_keeps_the_vm_from_starting(host, folder, stays):
    host.ctl.ok("stop", stays, "--force")
    for leave, answer in ((lambda: None, "there is no such folder"),
                          (lambda: folder.outside().write_text(""), "it is no folder"),
                          (lambda: folder.outside().symlink_to("/etc"), "it is no folder")):
        if folder.outside().is_dir():
            for path in folder.outside().iterdir():
                path.unlink()
            folder.outside().rmdir()
        else:
            folder.outside().unlink(missing_ok=True)
        leave()
        refused = host.ctl.run("start", stays)
        assert refused.returncode == REFUSED and answer in refused.stderr, refused
        assert_no_server_left(host)
    folder.outside().unlink()
    folder.outside().mkdir()
    host.ctl.start(stays)
    assert len(servers(host)) > 0


def test_a_share_outlives_the_daemon_and_ends_with_its_vm(host, folder, stays):
    host.ctl.ok("run", "-d", "-i", "--name", "web", "--vm", stays, "-v", f"{folder}:/in", box.NAME,
                "cat")
    before = sorted(servers(host))
    assert before
    for end in (host.kill, host.stop):
        end()
        assert sorted(servers(host)) == before
        host.start()
        result = in_container(host, "web", "cat /in/greeting; echo again >>/in/new")
        assert result.stdout == "from the host\n", result
        # The share is found again for a new container, too.
        assert host.ctl.ok("run", "--rm", "--vm", stays, "-v", f"{folder}:/x", box.NAME, "cat",
                           "/x/greeting") == "from the host\n"
    assert folder.read("new") == "again\nagain\n"
    host.ctl.ok("restart", stays, "--force")
    assert len(servers(host)) == len(before)
    assert not set(servers(host)) & set(before)
    assert host.ctl.ok("run", "--rm", "--vm", stays, "-v", f"{folder}:/x", box.NAME, "cat",
                       "/x/greeting") == "from the host\n"
    # QEMU dies while nobody looks: so does what served it.
    host.kill()
    host.kill_vmm()
    host.start()
    assert host.ctl.state(stays) in ("stopped", "failed")
    assert_no_server_left(host)
    host.ctl.start(stays)
    host.ctl.ok("stop", stays)
    assert_no_server_left(host)
    host.ctl.ok("vm", "delete", stays)
    assert sorted(path.name for path in folder.outside().iterdir()) == ["greeting", "new"]


def test_the_death_of_who_serves_a_share_is_told_and_the_vm_can_be_restarted(host, folder, stays):
    host.ctl.ok("run", "-d", "-i", "--name", "web", "--vm", stays, "-v", f"{folder}:/in", box.NAME,
                "cat")
    assert in_container(host, "web", "cat /in/greeting").stdout == "from the host\n"
    for pid, _ in servers(host):
        host.run(["kill", "-9", str(pid)])  # one may have gone with the other
    wait_for(lambda: "cannot use that folder" in host.log_tail(200), "it is not told")
    # Whoever does not touch the folder goes on.
    assert host.ctl.exec(stays, "echo", "still there").stdout == "still there\n"
    host.ctl.ok("restart", stays, "--force")
    assert host.ctl.ok("run", "--rm", "--vm", stays, "-v", f"{folder}:/x", box.NAME, "cat",
                       "/x/greeting") == "from the host\n"
    host.ctl.ok("stop", stays, "--force")
    assert_no_server_left(host)
