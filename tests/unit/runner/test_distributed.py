from __future__ import annotations

import pytest
import torch

from vlkit.errors import ConfigError, VlkitError
from vlkit.runner.distributed import World


def test_alone_everything_is_what_it_was():
    world = World()
    world.start(torch.device("cpu"))
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.sum([1.5, 2.0]) == [1.5, 2.0]
    assert world.gather(["a", "b"]) == ["a", "b"]
    assert world.on_main(lambda: 7) == 7
    with pytest.raises(VlkitError, match="no"):
        world.on_main(lambda: (_ for _ in ()).throw(VlkitError("no")))
    world.finish()


def test_several_processes_need_a_device_that_can(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    world = World()
    assert (world.rank, world.is_main) == (1, False)
    with pytest.raises(ConfigError, match="cpu or cuda"):
        world.start(torch.device("mps"))
