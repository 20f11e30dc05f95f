"""Image archives of every kind, made of a busybox and without a network."""
import gzip
import hashlib
import io
import json
import pathlib
import tarfile

from .build import guest_binaries

CONFIG = {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "echo hello"], "Env": ["PATH=/bin", "MODE=fast"],
          "WorkingDir": "/srv", "User": "7:8", "StopSignal": "SIGINT", "Labels": {"who": "tests"}}


def busybox():
    """The program that the guest image has, too."""
    found = sorted(guest_binaries().parent.glob("guest/cache/busybox-static-*/bin/busybox"))
    assert found, "build the guest image first"
    return found[-1].read_bytes()


def make_tar(entries):
    """A tar of {name: content}: bytes are a file, a text is a symbolic link, None is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o755, 1_700_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return out.getvalue()


def layers():
    """A root file system, and a layer that takes something of it away and adds something."""
    return [make_tar({"bin": None, "bin/busybox": busybox(), "bin/sh": "busybox", "etc": None,
                      "etc/gone": b"x", "old": None, "old/file": b"x", "srv": None}),
            make_tar({"etc/.wh.gone": b"", "old/.wh..wh..opq": b"", "srv/hello": b"hello\n"})]


def hex_digest(data):
    return hashlib.sha256(data).hexdigest()


def config(tars):
    return json.dumps({
        "architecture": "amd64", "os": "linux", "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hex_digest(tar)}" for tar in tars]},
    }).encode()


def oci_files(tars, wrong_layer=False):
    """{name: content} of an OCI layout."""
    blobs = {}

    def add(data, kind):
        blobs[f"blobs/sha256/{hex_digest(data)}"] = data
        return {"mediaType": kind, "digest": f"sha256:{hex_digest(data)}", "size": len(data)}

    described = [add(gzip.compress(tar, 1, mtime=0),
                     "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars]
    manifest = {"schemaVersion": 2, "layers": described,
                "config": add(config(tars), "application/vnd.oci.image.config.v1+json")}
    index = {"schemaVersion": 2, "manifests": [add(
        json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")]}
    if wrong_layer:
        blobs[f"blobs/sha256/{described[0]['digest'][7:]}"] = gzip.compress(b"x" * 9000, 1)
    return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(index).encode(), **blobs}


def docker_files(tars):
    """{name: content} of what docker save writes."""
    text = config(tars)
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = [{"Config": f"{hex_digest(text)}.json", "RepoTags": ["web:1"], "Layers": names}]
    return {**dict(zip(names, tars)), f"{hex_digest(text)}.json": text,
            "manifest.json": json.dumps(manifest).encode()}


def write_folder(folder, entries):
    folder = pathlib.Path(folder)
    for name, content in entries.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def unpack(tar, folder):
    """A tar's files as a folder."""
    pathlib.Path(folder).mkdir()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(folder)
    return folder
