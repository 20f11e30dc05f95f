"""The initramfs of the outer machines."""
import hashlib

import outer_image
from harness.host import build_folder


def test_same_inputs_give_the_same_bytes(tmp_path):
    digests = []
    for name in ("one", "two"):
        path = tmp_path / name
        outer_image.build(build_folder(), path)
        with open(path, "rb") as image:
            digests.append(hashlib.file_digest(image, "sha256").hexdigest())
        path.unlink()  # it is large
    assert digests[0] == digests[1]
