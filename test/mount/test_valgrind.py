# SPDX-License-Identifier: BSD-3-Clause
"""The client library under valgrind's memcheck.

Valgrind runs one thread at a time and gives way in system calls only. A touch that faults would wait for the library's fault thread,
which could not run; so would the mremap of a recall. Direct mappings are therefore populated and not recalled here; the rest goes
through the mount."""
import shutil
import subprocess
import sys

from harness import *

VALGRIND = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite")


def session(m, *words):
    """A client under valgrind: whatever it was asked succeeded, and it ends without a finding."""
    if shutil.which("valgrind") is None:
        raise Skip("valgrind is not installed")
    child = m.spawn(*VALGRIND, DRIVER, m.path, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    bufsize=1)
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


def test_direct(m):
    """valgrind: direct mappings, pins of all kinds, persist, fork: no invalid access, no leak"""
    m.file("f", 256 * KiB, fill=3)
    ask, end = session(m)
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
        ask("unmap")
        ask("close")
    end()


def test_through_the_mount(m):
    """valgrind: the same served through the mount, with changes of the layout and refusals"""
    m.file("f", 256 * KiB, fill=3)
    ask, end = session(m, "indirect")
    check_equal(ask("direct"), ["0"])
    ask("open", "f", "rw")
    ask("map", 0, 256 * KiB)
    check_equal(ask("load", 8192, 2), ["0303"])
    ask("store", 8192, "0404")
    ask("persist", 8192, 2)
    ask("pin", 1, 0, 8192)
    ask("unpin", 1)
    ask("truncate", 64 * KiB)
    ask("fallocate", 0, 0, 512 * KiB)
    ask("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 0, 8192)
    check_equal(ask("load", 0, 2), ["0000"])
    ask("unmap")
    ask("close")
    end()


if __name__ == "__main__":
    sys.exit(main(globals()))
