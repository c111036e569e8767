from __future__ import annotations

import pytest
import torch

from vlkit.runner.distributed import World
from vlkit.runner.log import MetricWindow, NonFinite


def values(loss: float, **more: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), **{name: torch.tensor(value) for name, value in more.items()}}


def test_means_over_the_window_and_then_a_new_one():
    window = MetricWindow(World())
    window.add(1, values(1.0), ["a"])
    window.add(2, values(3.0, grad_norm=5.0), ["b"])
    assert window.close() == {"loss": 2.0, "grad_norm": 5.0}
    window.add(3, values(7.0), ["c"])
    assert window.close() == {"loss": 7.0}


def test_looking_earlier_or_saving_does_not_change_the_mean():
    numbers = [0.1, 0.7, 0.30000001, 1e-9, 12345.678]
    whole, parts = MetricWindow(World()), MetricWindow(World())
    for step, number in enumerate(numbers):
        whole.add(step, values(number), [])
        parts.add(step, values(number), [])
        parts.settle()
        state, parts = parts.state_dict(), MetricWindow(World())
        parts.load_state_dict(state)
    assert whole.close() == parts.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_step_that_is_not_finite_is_named_with_its_samples(value):
    window = MetricWindow(World())
    window.add(1, values(1.0), ["a"])
    window.add(2, values(value), ["b", "c"])
    window.add(3, values(float("nan")), ["d"])
    with pytest.raises(NonFinite, match=r"loss is .* at step 2\. The batch of this step: b, c") as caught:
        window.settle()
    assert (caught.value.step, caught.value.sample_ids) == (2, ["b", "c"])


def test_a_metric_may_be_undefined():
    window = MetricWindow(World())
    window.add(1, {"loss": torch.tensor(1.0), "metrics/auc": torch.tensor(float("nan"))}, [])
    assert window.close()["loss"] == 1.0
