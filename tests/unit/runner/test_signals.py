from __future__ import annotations

import os
import signal

import pytest

from vlkit.runner.signals import StopRequest


def test_a_signal_is_noted_obeyed_when_adopted_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.flags() == [0.0, 0.0]
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.received, stop.number) == (signal.SIGTERM, None)
        stop.adopt(stop.flags())
        assert stop.number == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_what_another_process_received_is_obeyed():
    stop = StopRequest()
    stop.adopt([0.0, 2.0])
    assert stop.number == signal.SIGINT


@pytest.fixture
def ctrl_c():
    """Python's own handler, which a shell that starts the tests in the background switches off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_is_obeyed_at_once(ctrl_c):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
