# SPDX-License-Identifier: BSD-3-Clause
"""The daemon killed at every step point of its rooms, under load with clients attached. Slow: test_faults.py takes a sample."""
import sys

from harness import *
from step_load import daemon_round, step_points

# Points that this load does not reach, and why.
ELSEWHERE = {
    "alloc.inode_block": "needs more inodes than a fresh pool has room for: crash explorer",
    "fs.clone_marked": "no file is cloned: crash explorer",
    "fs.defragment_locked": "no file is defragmented: test/fs",
    "fs.shift_committed": "no file is collapsed: crash explorer",
    "journal.checkpoint_frozen": "here only in the unmount, and a death then does not show as one",
    "journal.checkpoint_stored": "the same",
    "mount.shift_step": "the same",
    "layout.client_gone": "a client that dies before the daemon does: test_revoke.py",
    "resize.formatted": "the pool is not resized: test/fs",
    "unmount.checkpointed": "a death in the unmount does not show as one: crash explorer",
}


@options(mounted=False)
def test_every_step(m):
    """[D2] killed at any step point under load, with clients attached, the daemon loses nothing acknowledged and the pool is whole"""
    seed = random.randrange(1 << 30)
    points = step_points(client=False)
    m.mount(), m.umount()
    missed = []
    for number, point in enumerate(points):
        reached = False
        for nth in (1, random.randrange(2, 30)):
            reached = daemon_round(m, point, nth, seed + number) or reached
            print(f"        {point}@{nth} {'reached' if reached else 'not reached'}", flush=True)
        if not reached and not daemon_round(m, point, 1, seed + number, seconds=4):
            missed.append(point)
    unknown = [p for p in missed if p not in ELSEWHERE]
    print(f"        {len(points)} points, {len(points) - len(missed)} reached; not reached: {missed}")
    check(len(unknown) <= len(points) // 4, f"most of the load's points are no longer reached: {unknown}")


if __name__ == "__main__":
    sys.exit(main(globals()))
