"""The initramfs of a machine that is a host itself: with a ferryd, QEMU and the guest image.

It is made of what was built and of what is installed here. The same inputs give the same bytes.
"""
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

MODULES = ("virtio_pci", "virtio_net", "virtio_rng", "vhost_vsock", "vsock_diag")
FOLDERS = ("dev", "proc", "root", "run", "sbin", "sys", "tmp", "var", "var/lib", "var/lib/ferry",
           "usr/sbin")
# QEMU loads its accelerator from there, and a q35 machine with a kernel needs this firmware.
QEMU_FILES = ("/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
              "/usr/share/seabios/bios-256k.bin",
              "/usr/share/qemu/kvmvapic.bin",
              "/usr/share/qemu/linuxboot_dma.bin")
QEMU = "/usr/bin/qemu-system-x86_64"
SOCKET_LISTER = "/bin/ss"


def _load_tool():
    """tools/guest-image, for its archives, packages and modules."""
    loader = importlib.machinery.SourceFileLoader("guest_image", str(ROOT / "tools/guest-image"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


_tool = _load_tool()


def _libraries(program):
    """{place in the image: file} of all that the dynamic linker would load for a program."""
    text = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for name, path in re.findall(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", text, re.M):
        # Without a name it is the dynamic linker, which is known by its path.
        place = f"{_tool.LIBRARY_FOLDER}/{name}" if name else path.lstrip("/")
        found[place] = pathlib.Path(path)
    missing = re.findall(r"^\s*(\S+) => not found$", text, re.M)
    assert found and not missing, f"{program} lacks {missing or 'all libraries'}"
    return found


def _add_program(archive, place, source):
    archive.file(place, _tool.stripped(pathlib.Path(source)), 0o755)
    for library, path in _libraries(source).items():
        if library not in archive:
            archive.file(library, path.read_bytes(), 0o755)


def _packages(guest):
    """The unpacked packages of the guest image's kernel and busybox."""
    entries = json.loads((guest / "manifest.json").read_text())["inputs"]["packages"]
    return [_tool.unpack_package(_tool.Package(**entry), guest / "cache") for entry in entries
            if entry["name"].startswith("linux-image-") or entry["name"] == _tool.BUSYBOX_PACKAGE]


def _add_modules(archive, kernel):
    release = next((kernel / "lib/modules").iterdir())
    modules = _tool.Modules(release)
    order = modules.load_order(MODULES)
    for name in order:
        archive.file(f"lib/modules/{name}.ko", modules.content(name))
    archive.file("etc/nested/modules", "".join(f"{name}.ko\n" for name in order).encode())


def build(build_folder, path):
    """Writes the initramfs to `path`, from what is in a build folder."""
    guest = build_folder / "guest"
    kernel, busybox = _packages(guest)
    archive = _tool.Archive()
    for folder in FOLDERS:
        archive.folder(folder)
    archive.device("dev/console", 5, 1, 0o600)
    archive.device("dev/null", 1, 3, 0o666)
    # ferry-layers runs as nobody.
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"
                               b"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.file("init", (HERE / "init").read_bytes(), 0o755)
    archive.file("usr/bin/qemu-with-icount", (HERE / "qemu-with-icount").read_bytes(), 0o755)
    for program in ("ferryd", "ferry-layers"):
        _add_program(archive, f"usr/bin/{program}", build_folder / "bin" / program)
    _add_program(archive, QEMU.lstrip("/"), QEMU)
    _add_program(archive, "usr/bin/ss", SOCKET_LISTER)
    for file in QEMU_FILES:
        # QEMU looks for all firmware in one folder.
        place = file.replace("/seabios/", "/qemu/").lstrip("/")
        archive.file(place, pathlib.Path(file).read_bytes())
    for file in ("vmlinuz", "initrd.img"):
        archive.file(f"usr/lib/ferry/{file}", (guest / file).read_bytes())
    _add_modules(archive, kernel)
    _tool.add_busybox(archive, busybox)
    archive.write(path)
