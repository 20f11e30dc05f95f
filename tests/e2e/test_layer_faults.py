"""Layers of images that are damaged or not there when they are to be copied with their VM."""
import os

import pytest

from harness import box
from harness.box import containers, state


@pytest.fixture
def web(box_hosts, box_vm, tmp_path):
    """The hosts, and a VM on the first in which a container runs."""
    box_hosts[0].ctl.ok("run", "-d", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir", tmp_path,
                        "box", "cat")
    return box_hosts, box_vm


def only_layer(host):
    layer, = box.layers(host)
    return layer


def flip_last_byte(file):
    """Where it lies, whoever has it open."""
    mode = file.stat().st_mode
    file.chmod(0o600)
    with file.open("r+b") as layer:
        layer.seek(-1, os.SEEK_END)
        last, = layer.read(1)
        layer.seek(-1, os.SEEK_END)
        layer.write(bytes([last ^ 1]))
    file.chmod(mode)


def assert_stays(hosts, vm, word):
    """It cannot move, which is said with this word, and nothing of it is at the destination."""
    source, destination = hosts
    moved = source.ctl.run("migrate", vm, "--to", destination.address)
    assert moved.returncode != 0 and word in moved.stderr, moved
    assert source.ctl.state(vm) == "running" and state(source, "web") == "running"
    assert source.ctl.ok("exec", "--container", "web", "--", "echo", "here") == "here\n"
    assert containers(destination) == [] and not destination.processes("qemu-system")
    assert box.layers(destination) == []


def assert_moves(hosts, vm):
    source, destination = hosts
    source.ctl.migrate(vm, destination)
    assert state(destination, "web") == "running"
    assert destination.ctl.ok("exec", "--container", "web", "--", "echo", "there") == "there\n"


def test_one_that_is_not_what_its_digest_says_is_not_kept(web):
    hosts, vm = web
    layer = only_layer(hosts[0])
    flip_last_byte(layer)
    assert_stays(hosts, vm, "digest")
    flip_last_byte(layer)
    assert_moves(hosts, vm)
    assert only_layer(hosts[1]).read_bytes() == layer.read_bytes()


def test_one_that_has_vanished_keeps_its_vm(web):
    hosts, vm = web
    layer = only_layer(hosts[0])
    aside = layer.rename(layer.parent.parent / "aside")
    assert_stays(hosts, vm, layer.name)
    aside.rename(layer)
    assert_moves(hosts, vm)


def test_one_that_has_vanished_at_the_destination_comes_again(web, tmp_path):
    hosts, vm = web
    box.import_into(hosts[1], tmp_path)
    only_layer(hosts[1]).unlink()
    assert_moves(hosts, vm)
    assert only_layer(hosts[1]).read_bytes() == only_layer(hosts[0]).read_bytes()
