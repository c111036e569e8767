from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from vlkit.errors import VlkitError
from vlkit.models.arguments import (
    check_choice,
    check_flag,
    check_share,
    check_whole,
    checked_keywords,
    number_list,
    one_or_more,
    text_list,
)


@checked_keywords
def call(samples, num_beams=3, *, top_p=0.9):
    """What it does."""
    return samples, num_beams, top_p


def test_known_keywords_pass_and_unknown_ones_are_named():
    assert call(1, num_beams=2, top_p=0.5) == (1, 2, 0.5)
    assert call.__doc__ == "What it does."
    with pytest.raises(VlkitError) as error:
        call(1, num_beam=2)
    assert str(error.value) == (
        "call() takes no argument 'num_beam'. Did you mean 'num_beams'? It takes samples, num_beams, top_p."
    )


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, None, float("nan"), 10])
def test_numbers_outside_of_the_range(value):
    with pytest.raises(VlkitError, match=r"beams is .*; it must be a whole number, from 1 to 9\."):
        check_whole("beams", value, 1, 9)


@pytest.mark.parametrize("value", [1, 9, np.int64(5)])
def test_whole_numbers(value):
    check_whole("beams", value, 1, 9)


def test_flags_choices_and_shares():
    check_flag("flag", False)
    check_choice("mode", "image", ("image", "text"))
    for share in (0, 1, 0.5, np.float32(0.5)):
        assert type(check_share("alpha", share)) is float
    assert check_share("alpha", Fraction(1, 4)) == 0.25
    for value in ("False", 1, None):
        with pytest.raises(VlkitError, match="it must be True or False"):
            check_flag("flag", value)
    with pytest.raises(VlkitError, match=r"mode is 'imag'; it must be 'image' or 'text'\. Did you mean 'image'"):
        check_choice("mode", "imag", ("image", "text"))
    for value in (-0.1, 1.1, float("nan"), "0.5", True, None, 10**400, Fraction(10**400), Decimal("0.5")):
        with pytest.raises(VlkitError, match="it must be a number from 0 to 1"):
            check_share("alpha", value)


@pytest.mark.parametrize("given", ["black", ["black"], ("black",), np.array(["black"]), np.array("black")])
def test_one_text_and_a_list_of_it_are_the_same(given):
    assert text_list("answers", given) == ["black"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"answers is empty; give at least one text"),
        (None, r"answers is None \(NoneType\); give a string, or a list of strings"),
        (b"black", r"answers is 5 bytes; decode them"),
        ({"a": 1}, r"answers is .* \(dict\); give a string"),
        ({"a"}, r"answers is .* \(set\); give a string"),
        (["a", None], r"answers\[1\] is None \(NoneType\); it must be a string"),
        ([["a"]], r"answers\[0\] is \['a'\] \(list\)"),
        (3, r"answers\[0\] is 3 \(int\); it must be a string"),
    ],
)
def test_what_is_no_text(given, message):
    with pytest.raises(VlkitError, match=message):
        text_list("answers", given)


def test_lists_of_numbers():
    assert number_list("weights", 1.5) == [1.5]
    assert number_list("weights", torch.tensor([[1, 2]]), whole=True) == [1, 2]
    assert number_list("weights", torch.tensor(2), whole=True) == [2]
    for given in (Fraction(3, 2), np.float32(1.5), [Fraction(3, 2)]):
        (found,) = number_list("weights", given)
        assert type(found) is float
        assert found == 1.5
    with pytest.raises(VlkitError, match=r"weights\[0\] is .*must be a finite number"):
        number_list("weights", Fraction(10**400))
    for given, message in (
        ("a", "must be a finite number"),
        ([1, float("inf")], r"weights\[1\] is inf"),
        (None, "a number, or a"),
    ):
        with pytest.raises(VlkitError, match=message):
            number_list("weights", given)
    with pytest.raises(VlkitError, match=r"counts\[1\] is -1; it must be a whole number of at least 0"):
        number_list("counts", [1, -1], whole=True, low=0)
    assert one_or_more("ids", "abc") == ["abc"]
