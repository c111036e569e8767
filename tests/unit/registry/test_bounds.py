"""Every number that YAML can give has bounds, and both YAML and Python values are checked against them."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Annotated, Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.capfilt.inputs import InputOptions
from vlkit.capfilt.job_file import JobOptions
from vlkit.config.cards import DatasetCard, ModelCard
from vlkit.config.convert import convert
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.config.signature import signature
from vlkit.errors import ConfigError, VlkitError
from vlkit.jobs.capfilt_output import RefilterEntries, ReportEntries
from vlkit.jobs.shards import ShardsEntries
from vlkit.models.arguments import check_memory, machine_memory
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.generation import GenerationConfig
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig
from vlkit.pipeline.schema import PipelineEntries
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS
from vlkit.registry.bounds import (
    LARGEST_FLOAT,
    LARGEST_INT,
    DropRate,
    Positive,
    PositiveInt,
    Range,
    check_fields,
    number_spans,
)


def constructors() -> list[Any]:
    """Everything that a run file, job file, pipeline file or card can build, nested dataclasses included."""
    roots = [registry.get(name) for registry in (MODELS, PROCESSORS, DATASETS, TASKS) for name in registry.names()]
    plugins = "vlkit.registry.plugin_files."  # of other tests in this process
    ours = [r for r in roots if r.__module__.startswith("vlkit.") and not r.__module__.startswith(plugins)]
    ours += [OptimConfig, RunOptions, JobOptions, InputOptions, PipelineEntries, RefilterEntries, ReportEntries]
    ours += [ShardsEntries, ModelCard, DatasetCard]
    found: list[Any] = []
    while ours:
        each = ours.pop()
        if each not in found:
            found.append(each)
            ours += [kind for p in signature(each).parameters.values() for kind in dataclasses_in(p.hint)]
    return found


def dataclasses_in(hint: Any) -> list[Any]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [] if hasattr(hint, "parse") else [hint]
    return [kind for arg in get_args(hint) for kind in dataclasses_in(arg)]


def numbers() -> list[tuple[str, Any, type, Range | None]]:
    """Every number of the schema: where it stands, its default, kind and bounds."""
    return [
        (f"{constructor.__name__}.{parameter.name}", parameter, kind, span)
        for constructor in constructors()
        for parameter in signature(constructor).parameters.values()
        for kind, span in number_spans(parameter.hint)
    ]


def test_every_number_of_the_schema_has_bounds():
    found = numbers()
    bounded = [name for name, _, _, span in found if span and -math.inf < span.low <= span.high < math.inf]
    without = sorted({name for name, *_ in found} - set(bounded))
    assert without == [], "give them Annotated[..., Range(...)], see vlkit.registry.bounds"
    assert len(bounded) > 100


def test_every_default_lies_within_its_bounds():
    wrong = []
    for name, parameter, _, _ in numbers():
        default = parameter.default
        if not parameter.required and not isinstance(default, (dict, list)):
            problems: list[tuple[str, str]] = []
            convert(list(default) if isinstance(default, tuple) else default, parameter.hint, name, problems)
            wrong += problems
    assert wrong == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, 2**64, -(2**64), 1e308, -1e308])
def test_odd_numbers_are_refused_wherever_a_number_stands(value):
    for name, _, kind, span in numbers():
        problems: list[tuple[str, str]] = []
        convert(value, Annotated[kind, span] if span else kind, name, problems)
        assert problems or (abs(value) == 2**64 and kind is float), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_float_without_bounds_is_finite(value):
    problems: list[tuple[str, str]] = []
    convert(value, float, "key", problems)
    assert "A finite number is needed" in problems[0][1]


def test_an_integer_without_bounds_fits_64_bits():
    problems: list[tuple[str, str]] = []
    assert convert(2**63 - 1, int, "key", problems) == 2**63 - 1
    assert problems == []
    convert(2**64, int, "key", problems)
    assert "18446744073709551616 (int) given" in problems[0][1]
    assert "at most 9223372036854775807" in problems[0][1]


def test_a_technical_limit_is_named_when_it_is_exceeded():
    assert str(Range(1, LARGEST_INT)) == "at least 1"
    problems: list[tuple[str, str]] = []
    convert(2**40, PositiveInt, "key", problems)
    assert problems == [("key", "1099511627776 (int) given, int at least 1 allowed. It may be at most 2147483647.")]


@given(st.floats() | st.integers())
def test_nothing_odd_is_in_a_range(value):
    for mark in (Range(), Range(0), Range(0, open=True), Range(0, 1), Range(0, 1, open_high=True)):
        if value in mark:
            assert abs(value) <= LARGEST_FLOAT
            assert mark.low <= value <= mark.high
            assert not (mark.open and value == mark.low)
            assert not (mark.open_high and value == mark.high)


@dataclasses.dataclass
class Sizes:
    rate: DropRate = 0.0
    scale: Positive | None = None
    count: PositiveInt = 1
    name: str = "x"

    def __post_init__(self) -> None:
        check_fields(self, "sizes")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rate": 1.0}, "sizes: rate is 1.0; it must be at least 0 and below 1."),
        ({"rate": math.nan}, "rate is nan; a finite number at least 0 and below 1 is needed."),
        ({"scale": 0}, "scale is 0; it must be above 0."),
        ({"scale": "2"}, "scale is '2'; a finite number above 0 is needed."),
        ({"count": 1.0}, "count is 1.0; a whole number at least 1 is needed."),
        ({"count": True}, "count is True; a whole number at least 1 is needed."),
        ({"count": 2**40}, "count is 1099511627776; it must be at most 2147483647."),
    ],
)
def test_dataclasses_that_are_built_from_python_are_checked(given, says):
    with pytest.raises(ConfigError) as caught:
        Sizes(**given)
    assert says in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    assert Sizes(np.float32(0.5), np.float64(2), np.int64(3)).count == 3


def test_all_wrong_fields_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(num_beams=0, top_p=math.nan, temperature=0)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (VitConfig, {"image_size": 7}, "patch_size (16) must divide image_size (7)"),
        (VitConfig, {"image_size": 0}, "image_size is 0"),
        (VitConfig, {"depth": -5}, "depth is -5; it must be at least 1 and at most 1000"),
        (VitConfig, {"embed_dim": 10, "num_heads": 4}, "num_heads (4) must divide embed_dim (10)"),
        (VitConfig, {"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        (MedConfig, {"hidden_size": 10, "num_attention_heads": 4}, "must divide hidden_size (10)"),
        (MedConfig, {"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
        (GenerationConfig, {"temperature": math.nan}, "temperature is nan"),
        (GenerationConfig, {"length_penalty": math.inf}, "length_penalty is inf"),
    ],
)
def test_sizes_without_sense(kind, given, says):
    with pytest.raises(ConfigError) as caught:
        kind(**given)
    assert says in str(caught.value)


def test_a_prompt_that_leaves_no_room_for_a_caption_is_named_with_both_numbers():
    prompt = "a red circle and a blue square "
    with pytest.raises(ConfigError) as caught:
        BlipCaption(small.vit(), small.med(), "shapes", prompt=prompt, max_words=9)
    message = str(caught.value)
    assert "the prompt 'a red circle and a blue square ' takes 8 tokens" in message
    assert "max_words is 9" in message
    assert "at least 10" in message
    BlipCaption(small.vit(), small.med(), "shapes", prompt=prompt, max_words=10)


def test_a_text_needs_three_tokens():
    with pytest.raises(VlkitError, match="max_words is 2; it must be at least 3"):
        BlipCaption(small.vit(), small.med(), "shapes", prompt="", max_words=2)


def test_the_temperature_lies_within_its_range():
    with pytest.raises(ConfigError, match=r"temperature is 0.9; it must be within temperature_range, 0.001 to 0.5"):
        BlipPretrain(small.vit(), small.med(), "shapes", embed_dim=8, queue_size=4, temperature=0.9)


def test_a_model_that_no_machine_holds_is_refused_before_it_is_built():
    with pytest.raises(ConfigError, match=r"BlipCaption would have about [\d,]+ numbers, .* GB; this machine has"):
        BlipCaption(VitConfig(embed_dim=65536, num_heads=1, depth=1000), small.med(), "shapes")
    with pytest.raises(ConfigError, match=r"Lower queue_size or embed_dim"):
        check_memory(2**50, "the queue of features", "queue_size or embed_dim")


def test_the_estimate_is_near_the_true_number():
    model = BlipCaption(small.vit(), small.med(), "shapes")
    estimate = model.vit_config.weight_count() + model.med_config.weight_count(model.vit_config.embed_dim)
    assert 0.5 < estimate / sum(p.numel() for p in model.parameters()) < 1.5
    base = VitConfig().weight_count() + MedConfig(vocab_size=30524).weight_count(768)
    assert 200e6 < base < 260e6  # BLIP base has 224 million
    memory = machine_memory()
    assert memory is None or memory > 2**28


@pytest.mark.parametrize("value", [Fraction(3, 2), np.float32(1.5), np.float64(1.5)])
def test_numbers_of_other_types_become_floats(value):
    config = GenerationConfig(repetition_penalty=value, temperature=value)
    assert type(config.repetition_penalty) is type(config.temperature) is float
    assert config.repetition_penalty == 1.5
    assert type(GenerationConfig(num_beams=np.int64(4)).num_beams) is int
    with pytest.raises(ConfigError, match="temperature is Fraction"):
        GenerationConfig(temperature=Fraction(10**400))
