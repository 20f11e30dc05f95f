"""Containers that get other ids at the destination, by whoever makes the calls of the migration
itself. Their guest knows them by the former ones."""
import contextlib
import pathlib

import grpc

from harness import box
from harness.box import containers, inspect, state
from harness.driven import PB, Run, refused
from harness.rpc import error_info

ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS


def others(host):
    """Another id for each container of the host, by its own."""
    return {container["id"]: container["id"][::-1] for container in containers(host)}


def move(hosts, vm, ids, scratch_files):
    """scratch_files -- Where the destination sees those that have another path there, by container."""
    with contextlib.closing(Run(hosts, vm)) as run:
        config = run.source.export(run.id, vm, hosts[1].address)
        run.destination.import_sandbox(run.id, config)
        for source_id, here in ids.items():
            bound = run.destination.bind(run.id, source_id, container_id=here,
                                         scratch_file=scratch_files.get(source_id))
            assert bound.container_id == here
        with refused(ALREADY_EXISTS) as error:
            run.destination.bind(run.id, next(iter(ids)), container_id="0" * 64)
        assert "is bound to this host already" in error.value.details()
        assert error_info(error.value).session_id == run.id
        run.source.send_layers(run.id, run.destination.receive_layers(run.id))
        run.transfer(run.destination.prepare(run.id))
        run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
        run.finalize()
    assert containers(hosts[0]) == []
    assert {container["id"] for container in containers(hosts[1])} == set(ids.values())


def test_a_pod_gets_other_ids_and_its_clients_go_on(box_hosts, box_vm, tmp_path):
    source, destination = box_hosts
    ctl, there = source.ctl, destination.ctl
    run_in_vm = ("run", "--vm", box_vm, "--scratch-dir", tmp_path)
    (tmp_path / "there").symlink_to(tmp_path)
    with ctl.attach(*run_in_vm, "-i", "--name", "web", "--scratch-size", "64M", box.NAME,
                    "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        ctl.ok(*run_in_vm, "-d", "--name", "side", "--pod", "web", box.NAME, "sh", "-c",
               "echo said; exec sleep 1000")
        web, side = inspect(source, "web")["id"], inspect(source, "side")["id"]
        with ctl.attach("exec", "-i", "--container", "web", "--", "cat") as inside:
            inside.write(b"inside\n")
            inside.wait_until(lambda output: output == b"inside\n")
            ids = others(source)
            scratch = tmp_path / "there" / pathlib.Path(inspect(source, "web")["scratch_file"]).name
            move(box_hosts, box_vm, ids, {web: str(scratch)})
            assert inspect(destination, "web")["scratch_file"] == str(scratch)
            for cat, output in ((client, b"before\n"), (inside, b"inside\n")):
                cat.write(b"after\n")
                cat.wait_until(lambda seen, output=output: seen == output + b"after\n")
            assert inspect(destination, "web")["guest_id"] == web
            # By its name, by its id here, and by that which somebody may have noted there.
            for name in ("web", ids[web], web):
                assert there.ok("exec", "--container", name, "--", "hostname").strip() == web[:12]
            assert {process["spec"]["container"] for process in there.processes(box_vm)
                    if process["spec"].get("container")} == {ids[web], ids[side]}
            assert there.ok("logs", ids[side]) == "said\n"
            there.ok("container", "pause", "side")
            assert state(destination, ids[side]) == "paused"
            there.ok("container", "resume", "side")
            assert int(box.stats(destination, "side")["pids"]) == 1
            its_disk, = [disk for disk in there.json("disk", "list", box_vm)["disks"]
                         if ids[web].startswith(disk["container_id"])]
            for name, size in ((its_disk["name"], "96M"), (its_disk["container_id"], "128M")):
                there.ok("disk", "resize", box_vm, name, size)
            assert inspect(destination, "web")["spec"]["scratch"]["size_bytes"] == str(128 << 20)
            # Who joins the pod joins it in the guest.
            box.import_into(destination, tmp_path)
            assert there.ok("run", "--rm", "--vm", box_vm, "--pod", "side", "--read-only", box.NAME,
                            "hostname").strip() == web[:12]
            # The next host knows them as this one does, unless it is told otherwise.
            there.migrate(box_vm, source)
            assert {container["id"] for container in containers(source)} == set(ids.values())
            inside.close_stdin()
            assert inside.wait() == 0
        client.close_stdin()
        assert client.wait() == 0
    assert inspect(source, ids[web])["exit_status"] == {"code": 0}
    ctl.ok("container", "rm", "--force", "side")
    ctl.ok("container", "rm", "web")
    assert sorted(tmp_path.glob("*.qcow2*")) == []


def test_one_with_another_id_goes_back_to_its_checkpoint_and_saved_state(box_hosts, box_vm,
                                                                         tmp_path):
    source, destination = box_hosts
    ctl, there = source.ctl, destination.ctl
    ctl.ok("run", "-d", "--name", "web", "--vm", box_vm, "--read-only", box.NAME, "sleep", "1000")
    in_web = ("exec", "--container", "web", "--")
    ctl.ok("checkpoint", "create", box_vm, "then", "--memory-only", "--memspec",
           tmp_path / "then.ferry")
    ids = others(source)
    move(box_hosts, box_vm, ids, {})
    here, = ids.values()
    there.ok("checkpoint", "revert", box_vm, "then")
    assert inspect(destination, "web")["id"] == here
    there.ok(*in_web, "true")
    there.ok("save", box_vm)
    destination.kill()
    destination.start()
    there.ok("start", box_vm)
    assert inspect(destination, "web")["id"] == here
    there.ok(*in_web, "true")
    there.ok("container", "stop", "-t", "0", "web")
    assert state(destination, here) == "stopped"
