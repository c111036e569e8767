"""Names of workers: dead and living processes are distinguished."""

from __future__ import annotations

import subprocess
import sys
import time

from vlkit.io.processes import is_dead, owner_name


def test_the_dead_and_the_living_differ():
    code = "import sys; from vlkit.io.processes import owner_name as n; print(n(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    assert not is_dead(name)
    process.kill()
    while process.poll() is None and not is_dead(name):  # a zombie is dead before it is waited for
        time.sleep(0.01)
    assert is_dead(name)
    process.communicate()
    assert is_dead(name)
    own = owner_name()
    assert not is_dead(own)
    host, machine, pid, start, number = own.rsplit("-", 4)
    assert is_dead(f"{host}-{machine}-{pid}-{int(start) + 1}-{number}")  # the number was given again
    for unknown in ("", "somebody", f"{host}-00000000-{pid}-1-{number}"):
        assert not is_dead(unknown)
    assert owner_name() != own
