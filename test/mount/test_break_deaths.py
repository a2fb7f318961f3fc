# SPDX-License-Identifier: BSD-3-Clause
"""The daemon is killed in the middle of a layout change."""
import os
import sys

from harness import *


# [R24] Where the daemon is killed, in the middle of a truncate that a pin holds up and whose mappers are recalled.
BREAK_STEPS = ["break.locked", "break.ticket", "gate.changing@2", "break.closed", "break.registered", "break.mark", "break.scanned",
               "break.sleeping", "break.woken", "break.recalled", "layout.acknowledged", "break.answered", "break.applying",
               "fs.truncate_locked", "fs.remove_step", "fs.remove_committed", "break.applied", "break.counted_out"]
# The same with policy quarantine, where the pin ends after the change; and with evict.
QUARANTINE_STEPS = ["break.applying", "fs.remove_committed", "break.applied", "held_back.pin_ended", "layout.release_quarantine", "alloc.punch"]
EVICT_STEPS = ["break.evict", "break.sleeping", "layout.client_gone", "break.applied"]
# The truncate of a file of which at most 2 MiB are mapped sends no message.
REVOKE_STEPS = ["break.freed", "break.punched", "break.applied"]
DEATH_SIZE = 4 * MiB  # a mapping of all of it is asked for first


def truncate_under_a_pin(m, c, daemon, policy):
    """The truncate, the unpin, and whatever fails because the daemon died."""
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB if policy == "revoke" else DEATH_SIZE)
    c.ask("pin", 0, 64 * KiB, 4096)
    work = Background(lambda: os.truncate(m.path / "f", 0))
    if policy in ("wait", "revoke"):
        wait_until(lambda: not process_alive(daemon) or any(w["phase"] == "waiting for pins" for w in m.waiters()), "the truncate waits")
    if policy == "quarantine":
        work.result(10)
    if policy != "evict":
        c.ask("unpin", 0)
    work.result(10)


def die_at(m, step, policy):
    """One round on a copy of the prepared pool. False if the step was not reached."""
    run("cp", "--sparse=always", m.dir / "prepared", m.pool)
    m.mount(env=dict(os.environ, PINDAX_STEPS=f"{step}=kill"), options="on_busy=wait" if policy == "revoke" else f"on_busy={policy}")
    daemon = m.daemon_pid()
    c = m.client()
    try:
        truncate_under_a_pin(m, c, daemon, policy)
    except (OSError, Failed):
        pass
    try:
        wait_until(lambda: not process_alive(daemon), "the step is reached", 5)
    except Failed:
        pass
    died = not process_alive(daemon)
    c.kill()
    if died:
        run("umount", "-l", m.path, ok=None)
        m.mounted = False
    else:
        m.umount()
    m.mount(options="on_busy=wait")
    got = os.path.getsize(m.path / "f")
    check(got in (0, DEATH_SIZE), f"{step}: size {got}")
    if got:
        check_equal((m.path / "f").read_bytes(), b"\x07" * DEATH_SIZE, f"{step}: contents")
    os.unlink(m.path / "f")
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, f"{step}: the quarantine drains", 20)
    wait_until(lambda: free(m) >= m.empty_blocks - 8, f"{step}: all space is back ({free(m)} of {m.empty_blocks})", 20)
    m.umount()
    m.fsck()
    return died


@options(mounted=False, mount={"size": "32M"})
def test_death_at_every_step(m):
    """[R24] the daemon is killed at every step of a break: done or not done, nothing leaks, nothing is lost, fsck is content"""
    m.mount()
    m.empty_blocks = free(m)
    m.file("f", DEATH_SIZE, fill=7)
    m.umount()
    run("cp", "--sparse=always", m.pool, m.dir / "prepared")
    missed = []
    for policy, steps in (("wait", BREAK_STEPS), ("revoke", REVOKE_STEPS), ("quarantine", QUARANTINE_STEPS), ("evict", EVICT_STEPS)):
        for step in steps:
            if not die_at(m, step, policy):
                missed.append(f"{policy}:{step}")
    check_equal(missed, [], "steps that were never reached")


if __name__ == "__main__":
    sys.exit(main(globals()))
