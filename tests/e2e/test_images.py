"""Images: every kind of archive in, what is known of them, and out again."""
import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile

import pytest

from harness import images
from harness.inotify import wait_until

REFUSED = 4
USAGE = 2


@pytest.fixture
def host(bare_hosts):
    bare_hosts[0].start()
    return bare_hosts[0]


def inspect(host, name):
    return host.ctl.json("image", "inspect", name)


def files(host, folder):
    return sorted(path.name for path in host.outside(host.state / "images" / folder).iterdir())


def digests(image):
    return [layer["digest"] for layer in image["layers"]]


def test_every_kind_of_archive_becomes_the_same_layers(host, tmp_path):
    tars = images.layers()
    oci, docker = images.oci_files(tars), images.docker_files(tars)
    (tmp_path / "oci.tar").write_bytes(images.make_tar(oci))
    (tmp_path / "oci.tar.gz").write_bytes(gzip.compress(images.make_tar(oci), 1))
    (tmp_path / "docker.tar").write_bytes(images.make_tar(docker))
    images.write_folder(tmp_path / "layout", oci)
    seen = {}
    for name, source, kind in (("oci", "oci.tar", "OCI"), ("packed", "oci.tar.gz", "OCI"),
                               ("docker", "docker.tar", "DOCKER"), ("layout", "layout", "OCI")):
        said = host.ctl.ok("image", "import", name, tmp_path / source)
        assert said.startswith(f"Imported {name}:latest: 2 layers, "), said
        image = inspect(host, name)
        assert image["kind"] == f"ARCHIVE_KIND_{kind}"
        assert image["config"]["entrypoint"] == images.CONFIG["Entrypoint"]
        assert image["config"]["cmd"] == images.CONFIG["Cmd"]
        assert image["config"]["env"] == images.CONFIG["Env"]
        assert image["config"]["working_dir"] == "/srv"
        assert image["config"]["user"] == "7:8"
        assert image["config"]["stop_signal"] == "SIGINT"
        assert image["config"]["labels"] == {"who": "tests"}
        assert [layer["diff_id"] for layer in image["layers"]] == [
            f"sha256:{images.hex_digest(tar)}" for tar in tars]
        seen[name] = digests(image)
    # They share two layers, which are what their names say.
    assert len(set(map(tuple, seen.values()))) == 1
    assert len(files(host, "layers")) == 2
    for digest in seen["oci"]:
        layer = host.outside(host.state / "images/layers" / f"sha256-{digest[7:]}.erofs")
        assert hashlib.sha256(layer.read_bytes()).hexdigest() == digest[7:]
        assert layer.stat().st_mode & 0o777 == 0o400
        subprocess.run(["fsck.erofs", layer], check=True, capture_output=True)
    table = host.ctl.ok("image", "list").splitlines()
    assert table[0].split() == ["IMAGE", "ID", "LAYERS", "SIZE", "IMPORTED"]
    assert [line.split()[0] for line in table[1:]] == [
        "docker:latest", "layout:latest", "oci:latest", "packed:latest"]
    host.ctl.ok("image", "rm", "docker", "layout:latest", "packed")
    assert len(files(host, "layers")) == 2
    # All of it is there after a restart, and goes with the last image, by the id in the table.
    host.restart()
    short = table[3].split()[1]
    assert digests(inspect(host, "oci")) == digests(inspect(host, short)) == seen["oci"]
    host.ctl.ok("image", "rm", short)
    assert files(host, "layers") == files(host, "names") == files(host, "tmp") == []


def test_a_root_file_system_comes_as_a_tar_a_folder_or_on_stdin(host, tmp_path):
    tar = images.layers()[0]
    (tmp_path / "root.tar").write_bytes(tar)
    folder = images.unpack(tar, tmp_path / "root")
    host.ctl.ok("image", "import", "tar", tmp_path / "root.tar")
    for name in ("folder", "again"):
        host.ctl.ok("image", "import", name, folder)
    piped = subprocess.run(host.ctl.command("image", "import", "piped", "-"), input=tar,
                           timeout=120, capture_output=True)
    assert piped.returncode == 0, piped.stderr
    assert digests(inspect(host, "tar")) == digests(inspect(host, "piped"))
    assert digests(inspect(host, "folder")) == digests(inspect(host, "again"))
    assert inspect(host, "tar")["kind"] == "ARCHIVE_KIND_ROOTFS"
    # The folder's layer holds what the folder holds.
    (digest,) = digests(inspect(host, "folder"))
    layer = host.outside(host.state / "images/layers" / f"sha256-{digest[7:]}.erofs")
    subprocess.run(["fsck.erofs", f"--extract={tmp_path / 'out'}", layer], check=True,
                   capture_output=True)
    subprocess.run(["diff", "-r", "--no-dereference", folder, tmp_path / "out"], check=True)


def test_names_are_utf_8_whatever_the_daemons_language_is(host, tmp_path):
    host.prefix = ["env", "LC_ALL=C"]
    host.restart()
    (tmp_path / "root.tar").write_bytes(images.make_tar({"gr\u00fc\u00dfe": b"hello"}))
    host.ctl.ok("image", "import", "web", tmp_path / "root.tar")
    (digest,) = digests(inspect(host, "web"))
    layer = host.outside(host.state / "images/layers" / f"sha256-{digest[7:]}.erofs")
    subprocess.run(["fsck.erofs", f"--extract={tmp_path / 'out'}", layer], check=True,
                   capture_output=True)
    assert (tmp_path / "out/gr\u00fc\u00dfe").read_bytes() == b"hello"


def test_a_host_that_cannot_read_its_images_does_without(host):
    names = host.outside(host.state / "images/names")
    names.rmdir()
    names.write_text("no folder")
    host.restart()
    host.ctl.ok("vm", "list")
    for command in (["list"], ["inspect", "web"], ["rm", "web"]):
        result = host.ctl.run("image", *command)
        assert result.returncode != 0, (command, result)
        assert "cannot use its images" in result.stderr, (command, result)
    names.unlink()
    host.restart()
    host.ctl.ok("image", "list")


def device(name):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type = tarfile.BLKTYPE
        tar.addfile(info)
    return out.getvalue()


def test_hostile_and_broken_archives_are_refused_and_leave_nothing(host, tmp_path):
    tars = images.layers()
    good = images.make_tar({"a": b"x" * 5000})
    escaping = images.make_tar({"../../../../../../tmp/ferry-was-here": b"x"})
    bad = [(escaping, "leads out of the archive"),
           (images.make_tar({"link": "/etc", "link/passwd": b"x"}), "as no folder"),
           (device("sda"), '"sda" is a device'),
           (good[:3000], "cut short"), (b"", "cut short"), (b"x" * 9000, "damaged"),
           (images.make_tar(images.oci_files([tars[0], escaping])), "leads out of the archive"),
           (images.make_tar(images.oci_files(tars, wrong_layer=True)), "layer 1 of 2")]
    for number, (archive, answer) in enumerate(bad):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(archive)
        result = host.ctl.run("image", "import", "web", path)
        assert result.returncode == USAGE, (number, result)
        assert answer in result.stderr, (number, result)
    assert host.ctl.ok("image", "list").splitlines()[1:] == []
    assert files(host, "layers") == files(host, "names") == files(host, "tmp") == []
    assert not host.outside(pathlib.Path("/tmp/ferry-was-here")).exists()


def test_mistakes_are_answered_with_what_to_do(host, tmp_path):
    (tmp_path / "root.tar").write_bytes(images.make_tar({"a": b"x"}))
    for command, status, answer in (
            (["import", "Web", tmp_path / "root.tar"], USAGE, "in lower case"),
            (["import", "web", tmp_path / "absent"], USAGE, "No such file"),
            (["import", "web", tmp_path / "root.tar", "--kind", "oci"], USAGE, "no OCI layout"),
            (["import", "web", tmp_path / "root.tar", "--kind", "iso"], USAGE, "--kind"),
            (["inspect", "web"], REFUSED, "ferryctl image list"),
            (["rm", "web"], REFUSED, "no image web:latest")):
        result = host.ctl.run("image", *command)
        assert result.returncode == status, (command, result)
        assert answer in result.stderr, (command, result)
    # What can be removed is, though another name is wrong.
    host.ctl.ok("image", "import", "web", tmp_path / "root.tar")
    assert host.ctl.run("image", "rm", "absent", "web").returncode == REFUSED
    assert files(host, "names") == []


def test_a_daemon_that_is_killed_in_the_middle_of_an_import_leaves_nothing(host):
    process = subprocess.Popen(host.ctl.command("image", "import", "web", "-"),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdin.write(b"x" * (1 << 20))
    process.stdin.flush()
    temporary = host.outside(host.state / "images/tmp")
    wait_until(temporary,
               lambda: any(path.stat().st_size for path in temporary.glob("*/source")))
    host.kill()
    assert process.wait(60) == 3
    process.stdin.close()
    assert files(host, "tmp") != []
    host.start()
    assert files(host, "layers") == files(host, "names") == files(host, "tmp") == []
    assert host.ctl.json("image", "list").get("images", []) == []


def test_a_client_that_is_killed_leaves_nothing(host):
    process = subprocess.Popen(host.ctl.command("image", "import", "web", "-"),
                               stdin=subprocess.PIPE)
    process.stdin.write(b"x" * (1 << 20))
    process.stdin.flush()
    temporary = host.outside(host.state / "images/tmp")
    wait_until(temporary, lambda: files(host, "tmp"))
    process.kill()
    process.wait(60)
    wait_until(temporary, lambda: not files(host, "tmp"))
    assert host.ctl.json("image", "list").get("images", []) == []


def test_archives_of_other_programs_are_understood(host, tmp_path):
    """umoci makes an OCI layout, skopeo turns it into what docker load reads."""
    folder = images.unpack(images.layers()[0], tmp_path / "root")
    layout = tmp_path / "layout"
    for command in (["umoci", "init", "--layout", layout],
                    ["umoci", "new", "--image", f"{layout}:v1"],
                    ["umoci", "insert", "--rootless", "--image", f"{layout}:v1", folder, "/"],
                    ["umoci", "config", "--image", f"{layout}:v1", "--config.cmd", "/bin/sh"],
                    ["skopeo", "copy", "--insecure-policy", f"oci:{layout}:v1",
                     f"docker-archive:{tmp_path / 'docker.tar'}:web:v1"]):
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    host.ctl.ok("image", "import", "umoci", layout)
    host.ctl.ok("image", "import", "skopeo", tmp_path / "docker.tar")
    one, other = inspect(host, "umoci"), inspect(host, "skopeo")
    assert one["kind"] == "ARCHIVE_KIND_OCI" and other["kind"] == "ARCHIVE_KIND_DOCKER"
    assert digests(one) == digests(other)
    assert one["config"]["cmd"] == other["config"]["cmd"] == ["/bin/sh"]


def test_who_may_do_what_and_what_is_written_of_it(locked_hosts, authority, tmp_path):
    host = locked_hosts[0]
    host.start()
    (tmp_path / "root.tar").write_bytes(images.make_tar({"a": b"x"}))
    viewer, operator = (authority.flags(name, [role]) for name, role in
                        (("alice", "viewer"), ("bob", "operator")))
    for who, command, status in ((viewer, ["import", "web", tmp_path / "root.tar"], REFUSED),
                                 (operator, ["import", "web", tmp_path / "root.tar"], 0),
                                 (viewer, ["list"], 0), (viewer, ["rm", "web"], REFUSED),
                                 (operator, ["rm", "web"], 0)):
        result = host.ctl.over_tcp(who, "image", *command)
        assert result.returncode == status, (command, result)
    lines = [json.loads(line) for line in
             host.outside(host.state / "audit.log").read_text().splitlines()]
    done = [(line["name"], line["method"], line["request"].get("name"))
            for line in lines if line["outcome"] == "OK"]
    assert done == [("bob", "ImageService/ImportImage", "web"),
                    ("bob", "ImageService/RemoveImage", "web")]
