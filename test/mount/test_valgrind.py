# SPDX-License-Identifier: BSD-3-Clause
"""The client library under valgrind's memcheck.

Valgrind runs one thread at a time and gives way in system calls only. A touch that faults would wait for the library's fault thread,
which could not run; so would the mremap of a recall where pages are not watched. With faults as signals a touch of what is not there
is an invalid access in memcheck's eyes. Direct mappings are therefore populated here and not touched after a recall."""
import os
import shutil
import subprocess
import sys

from harness import *

VALGRIND = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite")


def need_valgrind():
    if shutil.which("valgrind") is None:
        raise Skip("valgrind is not installed")


def session(m, *words, env=None):
    """A client under valgrind: whatever it was asked succeeded, and it ends without a finding."""
    need_valgrind()
    child = m.spawn(*VALGRIND, DRIVER, m.path, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    bufsize=1, env={**os.environ, **(env or {})})
    check_equal(child.stdout.readline().strip(), "ready", "client driver under valgrind")

    def ask(*command):
        child.stdin.write(" ".join(str(w) for w in command) + "\n")
        answer = child.stdout.readline().strip()
        check(answer.startswith("ok"), f"{command}: {answer}")
        return answer[2:].split()

    def end():
        child.stdin.write("exit\n")
        _, errors = child.communicate(timeout=TIMEOUT)
        check_equal(child.returncode, 0, f"memcheck's verdict:\n{errors}\n")
    return ask, end


def direct(m, **how):
    m.file("f", 256 * KiB, fill=3)
    m.file("source", 64 * KiB, fill=3)
    ask, end = session(m, **how)
    check_equal(ask("direct"), ["1"])
    for _ in range(3):
        ask("open", "f", "rw")
        ask("map", 0, 256 * KiB)
        check_equal(ask("load", 8192, 2), ["0303"])
        ask("store", 8192, "0303")
        ask("persist", 8192, 2)
        ask("pin", 1, 0, 8192)
        ask("pin", 2, 8192, 4096, "write")
        ask("trypin", 3, 65536, 4096)
        for pin in (1, 2, 3):
            ask("unpin", pin)
        ask("info")
        ask("mopen", "source")
        ask("mread", 0, 64)
        ask("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 128 * KiB, 8192)
        ask("fallocate", FALLOC_COLLAPSE, 192 * KiB, 8192)
        ask("fork")
        ask("unmap")
        ask("fallocate", FALLOC_INSERT, 192 * KiB, 8192)
        ask("fallocate", 0, 0, 256 * KiB)
        ask("close")
    end()


def test_direct(m):
    """valgrind: direct mappings, pins of all kinds, persist, changes of the layout, fork: no invalid access, no leak"""
    direct(m)


def test_signals(m):
    """valgrind: the same with faults as signals"""
    direct(m, env={"PINDAX_FAULTS": "signals"})


def test_page_book(m):
    """valgrind: what is inside the library by itself"""
    need_valgrind()
    # valgrind runs one thread at a time: a fault that another thread has to serve would never end.
    run(*VALGRIND, BUILD / "test/client/test_client_pages", "~watched pages*", timeout=600)


def test_through_the_mount(m):
    """valgrind: the same served through the mount, with changes of the layout and refusals"""
    m.file("f", 256 * KiB, fill=3)
    m.file("source", 64 * KiB, fill=3)
    ask, end = session(m, "indirect")
    check_equal(ask("direct"), ["0"])
    ask("open", "f", "rw")
    ask("map", 0, 256 * KiB)
    check_equal(ask("load", 8192, 2), ["0303"])
    ask("store", 8192, "0404")
    ask("persist", 8192, 2)
    ask("pin", 1, 0, 8192)
    ask("unpin", 1)
    check_equal(ask("pread", 0, 2), ["0303"])
    ask("pwrite", 4096, "0303")
    check_equal(ask("dedupe", "source", 32768, "f", 32768, 16384), ["16384"])
    ask("clone", "source", 4096, "f", 4096, 16384)
    ask("truncate", 64 * KiB)
    ask("fallocate", 0, 0, 512 * KiB)
    ask("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 0, 8192)
    check_equal(ask("load", 0, 2), ["0000"])
    ask("unmap")
    ask("close")
    end()


if __name__ == "__main__":
    sys.exit(main(globals()))
