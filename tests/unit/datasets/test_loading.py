"""The order of samples and the loaders, on toy datasets."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.toy import ToyDataset
from vlkit.datasets import loading
from vlkit.datasets.base import substitutes
from vlkit.datasets.loading import BAD, EvalLoader, TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.errors import BadSample, CheckpointError, ConfigError, DataError

sizes_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def mixture(*sizes: int, weights=None, seed=0, **kwargs) -> Mixture:
    return Mixture([ToyDataset(size, f"d{k}", **kwargs) for k, size in enumerate(sizes)], weights, seed)


def ids(loader: TrainLoader, steps: int) -> list[list[str]]:
    return [[each for batch in loader.next_step() for each in batch["sample_id"]] for _ in range(steps)]


@settings(deadline=None, max_examples=40)
@given(sizes_strategy, st.integers(0, 5))
def test_one_epoch_by_size_holds_every_sample_once(sizes, seed):
    stream = mixture(*sizes, seed=seed)
    counts = stream.start()
    for epoch in range(3):
        keys = stream.take(counts, sum(sizes))
        assert sorted((which, index) for which, _, index in keys) == [
            (which, index) for which, size in enumerate(sizes) for index in range(size)
        ]
        assert {each for _, each, _ in keys} == {epoch}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=4), st.integers(1, 300))
def test_shares_follow_weights_at_every_position(weights, number):
    stream = mixture(*[5] * len(weights), weights=weights)
    counts = stream.start()
    stream.take(counts, number)
    for count, weight in zip(counts, weights):
        assert abs(count - number * weight / sum(weights)) <= len(weights)


@settings(deadline=None, max_examples=40)
@given(sizes_strategy, st.lists(st.integers(0, 7), max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_read(sizes, pieces):
    stream, other = mixture(*sizes, seed=1), mixture(*sizes, seed=1)
    counts, joined = stream.start(), []
    for piece in pieces:
        joined += stream.take(counts, piece)
        stream = mixture(*sizes, seed=1)  # nothing but the counters is carried over
    assert joined == other.take(other.start(), sum(pieces))


def test_seeds_and_epochs_give_other_orders():
    first, second = mixture(50, seed=1), mixture(50, seed=2)
    one = first.take(first.start(), 100)
    assert [key[2] for key in one[:50]] != [key[2] for key in one[50:]]
    assert one != second.take(second.start(), 100)
    assert len({first.rng(key).integers(1 << 60) for key in one}) == 100


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([], None, "no training dataset"),
        ([3, 0], None, r"number 2 of 2\) is empty"),
        ([3, 4], [1.0], "1 weights are given for 2"),
        ([3, 4], [1.0, 0.0], "above 0"),
        ([3, 4], [1.0, None], "or none may be given"),
        ([3, 4], [1.0, float("nan")], "above 0"),
    ],
)
def test_wrong_mixtures_are_named(sizes, weights, message):
    with pytest.raises(DataError, match=message):
        mixture(*sizes, weights=weights)


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_one_order(world, micro_batches):
    reference = ids(TrainLoader(mixture(7, 5), 8), 5)
    loaders = [TrainLoader(mixture(7, 5), 8, micro_batches, rank, world) for rank in range(world)]
    for expected in reference:
        steps = [loader.next_step() for loader in loaders]
        joined = [each for micro in range(micro_batches) for step in steps for each in step[micro]["sample_id"]]
        assert joined == expected


def test_augmentation_belongs_to_the_sample_and_its_epoch():
    one = TrainLoader(mixture(6), 6).next_step()[0]
    two = [TrainLoader(mixture(6), 6, rank=rank, world=2).next_step()[0] for rank in range(2)]
    assert torch.equal(one["image"], torch.cat([batch["image"] for batch in two]))
    loader = TrainLoader(mixture(6), 6)
    first, second = loader.next_step()[0], loader.next_step()[0]
    place = second["sample_id"].index(first["sample_id"][0])
    assert not torch.equal(first["image"][0], second["image"][place])


def test_state_is_that_of_the_steps_handed_out_not_of_those_read_ahead():
    reference = ids(TrainLoader(mixture(11, 4), 4, 2), 7)
    loader = TrainLoader(mixture(11, 4), 4, 2, num_workers=2)
    assert ids(loader, 3) == reference[:3]
    state = loader.state_dict()
    loader.close()
    assert sum(state["counts"]) == 12
    other = TrainLoader(mixture(11, 4), 4, 1)
    other.load_state_dict(state)
    assert ids(other, 4) == reference[3:]


def test_state_of_other_datasets_is_refused():
    with pytest.raises(CheckpointError, match="another list of training datasets"):
        TrainLoader(mixture(5), 2).load_state_dict({"counts": [1, 2]})


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="multiple of 6"):
        TrainLoader(mixture(5), 8, grad_accum_steps=3, world=2)


def test_a_bad_sample_is_replaced_by_the_next_and_reported():
    good, bad = TrainLoader(mixture(6), 6), TrainLoader(mixture(6, bad=[2, 3]), 6)
    expected, batch = good.next_step()[0], bad.next_step()[0]
    replaced = {"d0-2": "d0-4", "d0-3": "d0-4"}
    assert batch["sample_id"] == [replaced.get(each, each) for each in expected["sample_id"]]
    assert set(batch[BAD]) == {("d0/2.jpg", "cannot be decoded"), ("d0/3.jpg", "cannot be decoded")}
    place, original = batch["sample_id"].index("d0-4"), expected["sample_id"].index("d0-4")
    assert torch.equal(batch["image"][place], expected["image"][original])


def test_samples_that_stand_together_and_cannot_be_used_do_not_end_a_run():
    loader = TrainLoader(mixture(300, bad=range(250)), 100)
    found = [each for _ in range(3) for each in loader.next_step()[0]["sample_id"]]
    assert len(found) == 300
    assert {int(each.partition("-")[2]) for each in found} <= set(range(250, 300))


@pytest.mark.parametrize(("index", "size"), [(0, 1), (3, 7), (19, 20), (5, 21), (299, 300), (7, 10_000)])
def test_substitutes_are_neighbors_and_then_others_each_once(index, size):
    found = list(substitutes(index, size))
    assert found[:20] == [(index + shift) % size for shift in range(min(20, size))]
    assert len(set(found)) == len(found) == min(size, 120)
    assert set(found) <= set(range(size))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_only_bad_samples_end_in_an_error_with_the_reasons(num_workers):
    loader = TrainLoader(mixture(30, bad=range(30)), 2, num_workers=num_workers)
    with pytest.raises(DataError, match=r"20 samples in a row .* 10 others .* cannot be decoded"):
        loader.next_step()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_errors_name_dataset_and_index(num_workers):
    loader = TrainLoader(mixture(4, broken=[3]), 4, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        loader.next_step()
    text = str(caught.value)
    assert "ToyDataset (number 1 of 1) fails at index 3: OSError: d0/3.jpg: input/output error" in text
    assert "Traceback" not in text


def test_a_mixed_batch_has_the_keys_that_all_samples_have():
    class More(ToyDataset):
        def sample(self, index, rng):
            return {**super().sample(index, rng), "question": "why?"}

    loader = TrainLoader(Mixture([More(4), ToyDataset(4)]), 8)
    assert set(loader.next_step()[0]) == {"image", "tokens", "image_id", "sample_id", BAD}


def test_image_ids_are_unique_across_mixed_datasets():
    """Datasets of equal ids: within one they tell images, across them they do not."""
    alone = TrainLoader(mixture(4), 4).next_step()[0]
    assert sorted(alone["image_id"]) == [0, 1, 2, 3]
    loader = TrainLoader(mixture(4, 4), 8)
    seen = {}
    for _ in range(3):
        batch = loader.next_step()[0]
        assert len(set(batch["image_id"])) == 8
        for sample, image in zip(batch["sample_id"], batch["image_id"]):
            assert seen.setdefault(sample, image) == image


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 23), st.integers(1, 5), st.integers(1, 6), st.sets(st.integers(0, 22)))
def test_evaluation_reads_each_good_sample_once_in_order(size, world, batch_size, bad):
    loaders = [EvalLoader(ToyDataset(size, bad=bad), batch_size, rank, world) for rank in range(world)]
    batches = list(itertools.chain(*loaders))
    indices = [index for batch in batches for index in batch["index"]]
    assert indices == [index for index in range(size) if index not in bad]
    assert all(len(batch["index"]) <= batch_size for batch in batches)
    assert sum(len(loader.bad) for loader in loaders) == len([index for index in bad if index < size])


def test_evaluation_samples_do_not_depend_on_batches_or_workers():
    one = torch.cat([batch["image"] for batch in EvalLoader(ToyDataset(5), 5)])
    two = torch.cat([batch["image"] for batch in EvalLoader(ToyDataset(5), 2, num_workers=1)])
    assert torch.equal(one, two)
    assert torch.equal(one[3], ToyDataset(5).sample(3, np.random.default_rng([3]))["image"])


def test_bad_sample_crosses_processes():
    import pickle

    error = pickle.loads(pickle.dumps(BadSample("a.jpg", "empty")))
    assert (error.source, error.reason) == ("a.jpg", "empty")


class Whereabouts(ToyDataset):
    """Tells which process made a sample, and with how many threads."""

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        return {"process": os.getpid(), "threads": torch.get_num_threads()}


def test_the_same_workers_serve_all_steps_with_one_thread_each():
    loader = TrainLoader(Mixture([Whereabouts(5)]), 4, num_workers=2)
    batches = [batch for _ in range(8) for batch in loader.next_step()]
    loader.close()
    processes = [set(batch["process"]) for batch in batches]
    assert all(len(each) == 1 for each in processes)
    assert len(set.union(*processes)) == 2  # 8 steps are more than one pass over the 5 samples
    assert os.getpid() not in set.union(*processes)
    assert {threads for batch in batches for threads in batch["threads"]} == {1}


@pytest.mark.parametrize("pin", [False, True])
def test_batches_are_pinned_only_on_demand(monkeypatch, pin):
    asked = []
    build = loading.DataLoader
    monkeypatch.setattr(
        loading, "DataLoader", lambda *args, pin_memory, **kwargs: asked.append(pin_memory) or build(*args, **kwargs)
    )
    TrainLoader(mixture(4), 2, pin_memory=pin).next_step()
    assert len(list(EvalLoader(ToyDataset(3), 2, pin_memory=pin))) == 2
    assert asked == [pin, pin]
