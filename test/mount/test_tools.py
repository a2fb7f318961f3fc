# SPDX-License-Identifier: BSD-3-Clause
"""The command line that shows everything: readable in 80 columns and with 10,000 pins, honest about rights, and it ends waits."""
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

from harness import *

NARROW = dict(os.environ, COLUMNS="80")


def shown(*args, ok=(0,), env=NARROW):
    """What a command prints, and that no line is wider than 80 columns."""
    text = run(PINDAX, *args, ok=ok, env=env).stdout
    for line in text.splitlines():
        check(len(line) <= 80, f"{args[0]}: {len(line)} columns: {line!r}")
    return text


def holder(m, name="f", size=1 * MiB):
    path = m.file(name, size, fill=7)
    c = m.client()
    c.ask("open", name, "rw")
    c.ask("map", 0, size)
    return path, c


def waiting_punch(m, path):
    child = m.spawn("fallocate", "-p", "-o", "0", "-l", "64K", path, stderr=subprocess.DEVNULL)
    m.wait_for_waiter()
    return child


def on_terminal(*args, answer=b""):
    """Runs a command on a terminal; returns its output and exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(PINDAX, [PINDAX, *map(str, args)])
    out = b""
    sent = False
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                piece = os.read(fd, 4096)
            except OSError:
                break
            if not piece:
                break
            out += piece
        if answer and not sent and b"[y/N]" in out:
            os.write(fd, answer)
            sent = True
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    return out.decode(errors="replace"), os.waitstatus_to_exitcode(status)


def test_waiters_says_how_to_end_the_wait(m):
    """pindax waiters names operation, range, policy and holder, and the commands that it prints end the wait"""
    path, c = holder(m, "a_file_with_a_rather_long_name,_as_people_have_them_in_their_home_directories")
    c.ask("pin", 0, 4096, 4096)
    child = waiting_punch(m, path)
    text = shown("waiters", m.path)
    for word in ("punch", "fallocate", f"pid {child.pid}", "policy wait", "client_driver", f"pid {c.pid}", "transient", "0 B +64 KiB",
                 "busy at 4 KiB", "ends with:"):
        check(word in text, f"{word!r} is missing in\n{text}")
    row = m.waiters()[0]
    check_equal(row["ends_with"][1], f"kill -INT {child.pid}")
    check_equal(run(PINDAX, "waiters", m.path, "--json", "--pid", "1").stdout.strip(), "[]")
    check_equal(len(json.loads(run(PINDAX, "waiters", m.path, "--json", "--file", path).stdout)), 1)
    command = row["ends_with"][0].split()
    check_equal(command[:2], ["pindax", "evict"])
    run(PINDAX, *command[1:], "--yes")
    check_equal(child.wait(5), 0)
    check_equal(c.process.wait(5), -signal.SIGKILL)
    check_equal(shown("waiters", m.path), "nobody waits\n")
    path, c = holder(m, "g")
    c.ask("pin", 0, 0, 4096)
    child = waiting_punch(m, path)
    run(*m.waiters()[0]["ends_with"][1].split())
    check(child.wait(5) != 0, "interrupted")


def test_queued_pin_is_a_waiter(m):
    """a pin that queues behind a waiting punch is shown with the punch that it waits for"""
    path, c = holder(m)
    c.ask("pin", 0, 0, 4096)
    child = waiting_punch(m, path)
    other = m.client()
    other.ask("open", "f", "rw")
    other.ask("map", 0, 1 * MiB)
    other.send("pin", 0, 4096, 4096)
    m.wait_for_waiter(2)
    row = [r for r in m.waiters() if r["operation"] == "pin"][0]
    check_equal((row["pid"], len(row["behind"])), (other.pid, 1))
    check(f"the punch by pid {child.pid}" in shown("waiters", m.path))
    c.ask("unpin", 0)
    child.wait(5)
    check(other.answer().startswith("ok"))


def test_evict_asks_first(m):
    """pindax evict asks on a terminal, wants --yes elsewhere, and kills by session or pid"""
    path, c = holder(m)
    check("--yes" in run(PINDAX, "evict", m.path, "--pid", c.pid, ok=(2,), stdin=subprocess.DEVNULL).stderr)
    run(PINDAX, "evict", m.path, ok=(2,))
    run(PINDAX, "evict", m.path, "--pid", os.getpid(), "--yes", ok=(4,))
    text, code = on_terminal("evict", m.path, "--pid", c.pid, answer=b"n\n")
    check("Kill client_driver" in text, text)
    check_equal(code, 1)
    check(process_alive(c.pid))
    text, code = on_terminal("evict", m.path, "--session", m.clients()[0]["session"], answer=b"y\n")
    check_equal(code, 0)
    check_equal(c.process.wait(5), -signal.SIGKILL)


def test_recall(m):
    """pindax recall takes translations of a range away, pins or not; a client that does not answer is reported"""
    path, c = holder(m)
    c.ask("load", 0, 4)
    c.ask("pin", 0, 0, 4096)
    before = m.clients()[0]["mapped_bytes"]
    check_equal(before, 1 * MiB)
    out = json.loads(run(PINDAX, "recall", path, "--offset", "64K", "--length", "128K", "--json").stdout)
    check_equal(out, {"recalls": 1, "recalls_pending": 0})
    check_equal(m.clients()[0]["mapped_bytes"], before - 128 * KiB)
    check_equal(c.ask("load", 64 * KiB, 4), ["07070707"], "it faults again")
    check("answered" in shown("recall", path))
    check("nobody" in shown("recall", path))
    c.ask("load", 0, 4)
    os.kill(c.pid, signal.SIGSTOP)
    check("not answered" in shown("recall", path, ok=(1,)))
    check_equal(m.clients()[0]["recalls_pending"], 1)
    os.kill(c.pid, signal.SIGCONT)
    wait_until(lambda: m.clients()[0]["recalls_pending"] == 0, "it answers")
    check_equal(len(m.pins()), 1, "the pin stands")


test_recall.mount = {"options": "recall_deadline=300ms"}


def test_ten_thousand_pins(m):
    """with 10,000 pins every listing is quick, fits 80 columns, and says what to type to see less or more"""
    path, c = holder(m, size=64 * MiB)
    c.ask("pins", 0, 10000, 4096)
    rows = m.pins()
    check_equal(len(rows), 10000)
    start = time.monotonic()
    text = shown("pins", m.path)
    took = time.monotonic() - start
    check(len(text.splitlines()) < 10, text)
    check("10000" in text and "--all" in text, text)
    check(took < 10, f"took {took:.1f} s")
    check_equal(len(shown("pins", m.path, "--all").splitlines()), 10001)
    child = waiting_punch(m, path)
    check_equal(len(m.pins("--waited")), 16)
    check_equal(len(m.pins("--pages", "--waited")), 16)
    check(shown("pins", m.path, "--waited").count("punch by") == 16)
    text = shown("waiters", m.path)
    check("holds 16 transient pins" in text, text)
    shown("clients", m.path)
    shown("top", m.path, "--count", "1", "--interval", "200ms")
    c.kill()
    check_equal(child.wait(10), 0)


def test_filters(m):
    """pins are chosen by file, process and kind; every listing repeats with --watch"""
    path, c = holder(m)
    other, d = holder(m, "other")
    c.ask("pin", 0, 0, 4096)
    d.ask("pin", 0, 0, 8192, "lease", "write", "transferable")
    check_equal([r["path"] for r in m.pins("--file", other)], ["/other"])
    check_equal([r["pid"] for r in m.pins("--pid", c.pid)], [c.pid])
    check_equal([r["kind"] for r in m.pins("--kind", "lease")], ["lease"])
    run(PINDAX, "pins", m.path, "--kind", "wrong", ok=(2,))
    row = m.pins("--kind", "lease")[0]
    check_equal((row["write"], row["transferable"], row["stuck"], row["asked_ms"]), (True, True, False, None))
    check_equal(len(json.loads(run(PINDAX, "clients", m.path, "--json", "--pid", c.pid).stdout)), 1)
    for words in (("pins", m.path), ("clients", m.path), ("waiters", m.path), ("layout", path), ("stat", path), ("stat", path, "--totals")):
        child = m.spawn(PINDAX, *words, "--watch", "100ms", "--json", stdout=subprocess.PIPE, text=True)
        lines = [child.stdout.readline() for _ in range(2)]
        child.send_signal(signal.SIGTERM)
        child.wait(5)
        for line in lines:
            json.loads(line)
    # A name cannot drive the terminal.
    evil, e = holder(m, "evil\x1b[31m")
    e.ask("pin", 0, 0, 4096)
    check("\x1b" not in shown("pins", m.path), "escaped")


def test_top(m):
    """pindax top shows rates, waiters and clients; one JSON object a look"""
    path, c = holder(m)
    c.send("churn", 0, 4096, 1500)
    rows = [json.loads(line) for line in run(PINDAX, "top", m.path, "--json", "--count", "2", "--interval", "400ms").stdout.splitlines()]
    check_equal(len(rows), 2)
    check(rows[0]["pins_made_per_s"] > 10000, str(rows[0]))
    check_equal(rows[0]["clients"], 1)
    c.answer()
    c.ask("pin", 0, 0, 4096)
    child = waiting_punch(m, path)
    text = shown("top", m.path, "--count", "1", "--interval", "100ms")
    for word in ("breaks", "pins", "faults", "punch /f", "client_driver", "per second"):
        check(word in text, f"{word}: {text}")
    text, code = on_terminal("top", m.path, "--count", "1", "--interval", "100ms")
    check_equal(code, 0)
    check("\x1b[2J" in text, "a screen on a terminal")
    c.ask("unpin", 0)
    child.wait(5)


def test_other_users_rows(m):
    """others' rows are shown to root and the mount's owner only; everybody else sees how many there are"""
    path, c = holder(m)
    os.chmod(path, 0o644)
    c.ask("pin", 0, 0, 4096)
    child = waiting_punch(m, path)
    as_user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    for command in ("pins", "clients", "waiters"):
        rows = json.loads(run(*as_user, PINDAX, command, m.path, "--json").stdout)
        check_equal(rows, [{"hidden_rows": 1}], command)
        text = run(*as_user, PINDAX, command, m.path).stdout
        check("1 more of other users" in text and "client_driver" not in text, text)
    run(*as_user, PINDAX, "top", m.path, "--count", "1", "--interval", "50ms")
    refused = run(*as_user, PINDAX, "evict", m.path, "--pid", c.pid, "--yes", ok=(4,))
    check("no such client of yours" in refused.stderr, refused.stderr)
    refused = run(*as_user, PINDAX, "recall", path, ok=(4,))
    c.ask("unpin", 0)
    child.wait(5)


def test_run(m):
    """pindax run tells its command where mount, socket and pool are, and passes its exit code on"""
    out = run(PINDAX, "run", m.path, "sh", "-c", 'echo "$PINDAX_MOUNT|$PINDAX_POOL"; test -S "$PINDAX_SOCKET"').stdout
    check_equal(out, f"{m.path}|{m.pool}\n")
    run(PINDAX, "run", m.path, "--", "sh", "-c", "exit 7", ok=(7,))
    run(PINDAX, "run", m.path, "/no/such/command", ok=(127,))
    run(PINDAX, "run", "/", "true", ok=(4,))


def test_fallocate_with_a_policy(m):
    """pindax fallocate brings its own policy and deadline along"""
    path, c = holder(m)
    c.ask("pin", 0, 0, 4096)
    punching = (PINDAX, "fallocate", path, "-p", "-l", "64K", "--on-busy")
    check("pin" in run(*punching, "refuse", ok=(4,)).stderr)
    start = time.monotonic()
    run(*punching, "wait", "--deadline", "200ms", ok=(4,))
    check(time.monotonic() - start >= 0.19)
    run(*punching, "sometimes", ok=(2,))
    run(*punching, "quarantine")
    check_equal(m.info()["quarantine_bytes"], 4096)
    run(PINDAX, "fallocate", path, "-l", "64K")
    c.ask("unpin", 0)
    c.ask("pin", 1, 0, 4096)
    run(*punching, "evict")
    check_equal(c.process.wait(5), -signal.SIGKILL)


def words(pattern, text):
    return set(re.findall(pattern, text))


@options(mounted=False, without_fuse=True)
def test_manual_and_help(m):
    """every command, option and mount option stands in its manual page, and the pages name none that there is not"""
    pages = pathlib.Path(__file__).parents[2] / "docs/man"
    page = (pages / "pindax.1.scd").read_text()
    commands = words(r"(?m)^  ([a-z]+) ", run(PINDAX, "--help").stdout.split("Subcommands:")[1])
    check(len(commands) >= 20, str(commands))
    missing = []
    helped = {"--no-mount"}  # of pindaxd
    for command in sorted(commands):
        if not re.search(rf"\*{command}\*", page):
            missing.append(command)
        # Only the lines of the option list, not what they say about others.
        mine = words(r"(?m)^ +(?:-\w,)?(--[a-z-]+)", run(PINDAX, command, "--help").stdout)
        for option in mine - {"--help", "--json", "--watch", "--socket"}:
            if not re.search(rf"{option}\b", page):
                missing.append(f"{command} {option}")
        helped |= mine
    check_equal(missing, [], "not in pindax.1")
    check_equal(words(r"\*(--[a-z-]+)", page) - helped, set(), "options that only pindax.1 knows")
    page = (pages / "pindax.5.scd").read_text()
    text = run(BUILD / "src/daemon/pindaxd", "--help").stdout.split("comma list:")[1].split("Exit codes")[0]
    for option in words(r"(?m)^    ([a-z_]+)", text) | words(r"([a-z_]+)=[A-Z]+", text):
        check(re.search(rf"\b{option}\b", page), f"pindax.5 does not know {option}")
    for option in words(r"(?m)^\*([a-z_]+)\*(?!\()", page):
        check(re.search(rf"\b{option}\b", text), f"pindaxd --help does not know {option}")


def test_umount_of_a_busy_mount(m):
    """umount of a mount that is in use says so; in use for a moment only, as by a process that is just ending, it waits"""
    child = m.spawn("sleep", "100", cwd=m.path)
    done = run(PINDAX, "umount", m.path, ok=None)
    check("in use" in done.stderr, done.stderr)
    child.kill()
    child.wait(5)
    m.spawn("sleep", "0.3", cwd=m.path)
    run(PINDAX, "umount", m.path)
    m.mounted = False


if __name__ == "__main__":
    sys.exit(main(globals()))
