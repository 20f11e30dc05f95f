"""The initramfs of the outer machines."""
import hashlib
import os
import pathlib
import subprocess

import outer_image
from harness.build import build_folder

BUILD = "import pathlib, sys, outer_image; outer_image.build(*map(pathlib.Path, sys.argv[1:]))"


def test_same_inputs_give_the_same_bytes(tmp_path):
    digests = []
    for seed in ("1", "2"):  # of the order in which sets are gone through
        path = tmp_path / seed
        subprocess.run(["/usr/bin/python3", "-c", BUILD, build_folder(), path], check=True,
                       cwd=pathlib.Path(outer_image.__file__).parent,
                       env={**os.environ, "PYTHONHASHSEED": seed})
        with open(path, "rb") as image:
            digests.append(hashlib.file_digest(image, "sha256").hexdigest())
        path.unlink()  # it is large
    assert digests[0] == digests[1]
