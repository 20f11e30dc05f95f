"""Tests tools/guest-image: same inputs give the same bytes, and the image holds what it must.

Usage: guest_image_test.py --cache DIR [unittest arguments]
The packages come from DIR, or are downloaded into it.
"""
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

# The tool is loaded as a module as well.
sys.dont_write_bytecode = True
TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools/guest-image"
PROGRAM = pathlib.Path("/bin/true")
cache = None


def read_cpio(path):
    """The entries of a newc archive: name to (mode, header fields, content)."""
    data = path.read_bytes()
    entries, at = {}, 0
    while True:
        assert data[at:at + 6] == b"070701", f"no header at {at}"
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name_at = at + 110
        name = data[name_at:name_at + fields[11] - 1].decode()
        content_at = -(-(name_at + fields[11]) // 4) * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (fields[1], fields, data[content_at:content_at + fields[6]])
        at = -(-(content_at + fields[6]) // 4) * 4


def build(output, *extra, check=True):
    return subprocess.run([TOOL, "--output", output, "--cache", cache, "--agent", PROGRAM, *extra],
                          check=check, stderr=subprocess.PIPE, text=True, timeout=240)


class LinksTest(unittest.TestCase):
    """Links inside an unpacked package are followed as if it were installed."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ferry-package-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "lib").mkdir()
        (self.folder / "lib/libreal.so.1").write_text("the package's")
        loader = importlib.machinery.SourceFileLoader("guest_image", str(TOOL))
        spec = importlib.util.spec_from_loader("guest_image", loader)
        self.tool = importlib.util.module_from_spec(spec)
        sys.modules["guest_image"] = self.tool
        loader.exec_module(self.tool)

    def follow(self, target):
        link = self.folder / "lib/libx.so"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        return self.tool.follow(self.folder, link)

    def test_links_stay_in_the_package(self):
        for target in ("libreal.so.1", "/lib/libreal.so.1", "../lib/libreal.so.1"):
            self.assertEqual(self.follow(target), self.folder / "lib/libreal.so.1")

    def test_a_link_that_leads_out_is_an_error(self):
        for target in ("../../etc/hostname", "libx.so"):
            with self.assertRaises(self.tool.ImageError):
                self.follow(target)


class GuestImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="ferry-image-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.image = cls.folder / "one"
        cls.extra = cls.folder / "note"
        cls.extra.write_text("a note\n")
        build(cls.image, "--add", f"{cls.extra}:/etc/ferry/note")
        cls.entries = read_cpio(cls.image / "initrd.img")

    def content(self, name):
        return self.entries[name][2].decode()

    def test_same_inputs_give_same_bytes(self):
        other = self.folder / "two"
        build(other, "--add", f"{self.extra}:/etc/ferry/note")
        for name in ("vmlinuz", "initrd.img", "manifest.json"):
            self.assertEqual((self.image / name).read_bytes(), (other / name).read_bytes(), name)

    def test_entries_carry_no_trace_of_the_builder(self):
        for number, (name, (_, fields, _)) in enumerate(self.entries.items(), start=1):
            inode, _, uid, gid, _, mtime = fields[:6]
            self.assertEqual((inode, uid, gid, mtime), (number, 0, 0, 0), name)
        self.assertEqual(list(self.entries), sorted(self.entries))

    def test_second_run_does_nothing(self):
        before = (self.image / "initrd.img").stat().st_ino
        result = build(self.image, "--add", f"{self.extra}:/etc/ferry/note")
        self.assertIn("up to date", result.stderr)
        self.assertEqual((self.image / "initrd.img").stat().st_ino, before)

    def test_a_changed_input_or_a_damaged_output_is_built_again(self):
        output = self.folder / "changing"
        build(output)
        first = json.loads((output / "manifest.json").read_text())
        (output / "initrd.img").write_bytes(b"damaged")
        build(output)
        self.assertEqual(json.loads((output / "manifest.json").read_text()), first)
        self.assertIn("init", read_cpio(output / "initrd.img"))
        build(output, "--add", f"{self.extra}:/added")
        self.assertIn("added", read_cpio(output / "initrd.img"))

    def test_every_module_comes_after_what_it_needs(self):
        order = self.content("etc/ferry/modules").splitlines()
        needs = {}
        for line in self.content("lib/modules/ferry/modules.dep").splitlines():
            name, _, rest = line.partition(":")
            needs[name] = rest.split()
        for position, module in enumerate(order):
            self.assertIn(f"lib/modules/ferry/{module}", self.entries)
            for need in needs[module]:
                self.assertIn(need, order[:position], f"{module} needs {need} before it")
        for module in needs:
            self.assertIn(f"lib/modules/ferry/{module}", self.entries)
        self.assertLess(order.index("virtio_ring.ko"), order.index("virtio.ko"))
        self.assertLess(order.index("virtio.ko"), order.index("virtio_pci.ko"))
        for module in ("virtio_console.ko", "virtio_rng.ko", "vmw_vsock_virtio_transport.ko",
                       "virtio_scsi.ko", "sd_mod.ko"):
            self.assertLess(order.index("virtio_pci.ko"), order.index(module))

    def test_modules_agree_with_their_own_headers(self):
        order = self.content("etc/ferry/modules").splitlines()
        for position, module in enumerate(order):
            content = self.entries[f"lib/modules/ferry/{module}"][2]
            depends = re.search(rb"\0depends=([^\0]*)\0", content)[1].decode()
            for need in filter(None, depends.split(",")):
                if f"lib/modules/ferry/{need.replace('-', '_')}.ko" in self.entries:
                    self.assertIn(need.replace("-", "_") + ".ko", order[:position])

    def test_programs_devices_and_files(self):
        mode, _, content = self.entries["init"]
        self.assertEqual(mode, stat.S_IFREG | 0o755)
        self.assertEqual(content[:4], b"\x7fELF")
        self.assertEqual(self.entries["bin/sh"][2], b"/bin/busybox")
        self.assertTrue(stat.S_ISLNK(self.entries["bin/sh"][0]))
        console = self.entries["dev/console"]
        self.assertTrue(stat.S_ISCHR(console[0]))
        self.assertEqual(console[1][9:11], [5, 1])
        self.assertEqual(self.entries["dev/null"][1][9:11], [1, 3])
        self.assertIn("root:x:0:0:", self.content("etc/passwd"))
        self.assertEqual(self.content("etc/ferry/note"), "a note\n")

    def test_the_tools_find_every_library_that_they_need(self):
        for tool in ("usr/bin/crun", "sbin/mke2fs"):
            self.assertEqual(self.entries[tool][0], stat.S_IFREG | 0o755)
        for name, (_, _, content) in list(self.entries.items()):
            if content[:4] != b"\x7fELF" or name.endswith(".ko"):
                continue
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                text = subprocess.run(["readelf", "--wide", "--dynamic", "--program-headers",
                                       file.name], check=True, stdout=subprocess.PIPE,
                                      text=True).stdout
            for linker in re.findall(r"interpreter: /(\S+)\]", text):
                # The test's agent is any program of this machine; it is not run.
                if name != "init":
                    self.assertIn(linker, self.entries, name)
            for library in re.findall(r"\(NEEDED\).*\[(\S+)\]", text):
                if name != "init" and not library.startswith("ld-linux"):
                    self.assertIn(f"lib/x86_64-linux-gnu/{library}", self.entries, name)

    def test_modules_of_layers_are_there_and_loaded_only_when_needed(self):
        # ext4 is built into this kernel.
        modules = self.content("lib/modules/ferry/modules.dep")
        for name in ("overlay", "erofs", "squashfs"):
            self.assertIn(f"{name}.ko:", modules)
            self.assertNotIn(f"{name}.ko", self.content("etc/ferry/modules"))

    def test_manifest_names_every_input(self):
        manifest = json.loads((self.image / "manifest.json").read_text())
        self.assertEqual(set(manifest["inputs"]["files"]), {"init", "etc/ferry/note"})
        names = [package["name"] for package in manifest["inputs"]["packages"]]
        self.assertTrue(names[0].startswith("linux-image-"))
        self.assertEqual(names[1], "busybox-static")
        for name in ("crun", "e2fsprogs", "libc6", "libseccomp2"):
            self.assertIn(name, names)
        self.assertNotIn("libelogind0", names)
        self.assertEqual(set(manifest["outputs"]), {"vmlinuz", "initrd.img"})

    def test_wrong_arguments_are_explained(self):
        result = build(self.folder / "bad", "--add", "nonsense", check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("SRC:/DEST", result.stderr)
        result = build(self.folder / "bad", "--add", "/no/such/file:/x", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("/no/such/file", result.stderr)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] != ["--cache"] or len(arguments) < 2:
        sys.exit(__doc__)
    cache = arguments[1]
    unittest.main(argv=[sys.argv[0], *arguments[2:]])
