# SPDX-License-Identifier: BSD-3-Clause
"""Large and many, at full size: minutes, so not part of the quick suites."""
import os
import sys
import time

from harness import *

COUNT = int(os.environ.get("PINDAX_MANY", 1_000_000))


def timed(what, work):
    start = time.monotonic()
    value = work()
    print(f"        {what}: {time.monotonic() - start:.1f} s", flush=True)
    return value


@options(mount={"size": "8G", "sparse": True})
def test_a_million_files(m):
    """a directory of a million files: created, found, listed once each, after a crash of the daemon too, and removed"""
    folder = m.path / "d"
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)

    def create():
        for i in range(COUNT):
            os.mknod(f"file {i:07}", 0o100644, dir_fd=at)
    timed(f"{COUNT} created", create)
    names = timed("listed", lambda: {e.name for e in os.scandir(folder)})
    check_equal(len(names), COUNT, "names")
    os.close(at)
    m.kill_daemon()
    timed("mounted after a crash", m.mount)
    for i in range(0, COUNT, max(1, COUNT // 1000)):
        check(f"file {i:07}" in names, "listed")
        os.stat(folder / f"file {i:07}")
    check_equal(timed("counted again", lambda: sum(1 for _ in os.scandir(folder))), COUNT, "names after the crash")
    m.umount()
    timed("fsck", m.fsck)
    m.mount()
    at = os.open(folder, os.O_RDONLY)

    def remove():
        for i in range(COUNT):
            os.unlink(f"file {i:07}", dir_fd=at)
    timed("removed", remove)
    check_equal(os.listdir(at), [], "left")
    os.close(at)
    folder.rmdir()
    m.umount()
    m.fsck()


if __name__ == "__main__":
    sys.exit(main(globals()))
