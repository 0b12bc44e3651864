"""Interrupts wait until the end of what must not be left half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from srtool.interrupts import interrupts_held


class Came(BaseException):
    """Of a signal."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Both signals raise, as they do in a command."""

    def handle(number: int, frame: object) -> None:
        raise Came(number)

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("from_children", [False, True])
def test_it_comes_at_the_end(number: int, from_children: bool) -> None:
    done = []

    def work() -> None:
        with interrupts_held(from_children) as came:
            assert not came()
            signal.raise_signal(number)
            done.append("after the signal")

    with pytest.raises(Came) as caught:
        work()
    assert caught.value.args == (number,)
    assert done == ["after the signal"]
    with pytest.raises(Came):  # and is as it was before
        signal.raise_signal(number)


@pytest.mark.skipif(sys.platform == "win32", reason="the signals of a process are not held there")
def test_processes_that_are_started_get_no_ctrl_c_but_an_end() -> None:
    command = [sys.executable, "-c", "import sys; print('on', flush=True); sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with interrupts_held(from_children=True):
        process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    with process:
        assert process.stdout.readline() == "on\n"
        os.kill(process.pid, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_in_another_thread_nothing_is_held() -> None:
    found = []

    def work() -> None:
        with interrupts_held() as came:
            found.append(came())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
