"""A small real disk that fails on command: an ext4 file system in a file, mounted over a loop device."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

PAGE_BYTES = 4096  # the block size of a Pi's file systems; mke2fs would make smaller ones on so small a disk


class Disk:
    """A mounted file system; a context manager that always lets it go."""

    def __init__(self, image: Path, at: Path, megabytes: int = 24) -> None:
        self._image = image
        self.at = at
        self._filling = at / "filling"
        if os.geteuid() != 0:
            pytest.skip("a disk that fails is a loop device: needs root")
        at.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"")
        os.truncate(image, megabytes << 20)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-b", str(PAGE_BYTES), str(image))
        try:
            self.mount()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"a disk that fails is a loop device, and there is none here: {error.stderr}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.at)], capture_output=True, check=False)

    def mount(self, options: str = "rw") -> None:
        """Mounts it; the kernel makes it read-only when it finds an error, as on a Pi."""
        _run("mount", "-o", f"loop,errors=remount-ro,{options}", str(self._image), str(self.at))

    def remount(self, options: str) -> None:
        """Mounts it anew as it is, with other options."""
        _run("mount", "-o", f"remount,{options}", str(self.at))

    def unmount(self) -> None:
        """Unmounts it; nobody may use it any more."""
        _run("umount", str(self.at))

    def fill(self) -> None:
        """Takes the last free byte."""
        with self._filling.open("ab", buffering=0) as file:
            for size in (1 << 20, PAGE_BYTES, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def empty(self) -> None:
        """Gives it back."""
        self._filling.unlink(missing_ok=True)

    @contextmanager
    def frozen(self) -> Iterator[float]:
        """Whoever writes hangs till the end; reading goes on. Gives the monotonic time at which it began."""
        _run("fsfreeze", "--freeze", str(self.at))
        try:
            yield time.monotonic()
        finally:
            _run("fsfreeze", "--unfreeze", str(self.at))

    def break_down(self) -> None:
        """The kernel finds an error: read-only until it is unmounted, whatever is open."""
        device = _run("findmnt", "--noheadings", "--output", "SOURCE", str(self.at)).strip()
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        with suppress(OSError):  # that write itself is answered as the next ones will be
            trigger.write_text("test")
        assert "ro" in _run("findmnt", "--noheadings", "--output", "OPTIONS", str(self.at))


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
