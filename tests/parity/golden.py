"""Reads reference cases: ``NAME.json`` and ``NAME.npz`` in the folder that ``VLKIT_GOLDEN_DIR`` names."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ASSETS = Path(__file__).parents[1] / "assets" / "golden"
GOLDEN_DIR = Path(os.environ.get("VLKIT_GOLDEN_DIR") or ASSETS / "open")


def _load_fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill", ASSETS / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill_module = _load_fill()


class Case:
    """One case: ``case.info`` is the JSON, ``case["name"]`` an array as a tensor."""

    def __init__(self, name: str):
        path = GOLDEN_DIR / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"no case {name} in {GOLDEN_DIR}")
        self.name = name
        self.info: dict[str, Any] = json.loads(path.read_text())
        arrays = GOLDEN_DIR / f"{name}.npz"
        self.arrays = dict(np.load(arrays)) if arrays.is_file() else {}

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def said(self, key: str, *names: str) -> dict[str, float]:
        """Numbers that the description of the array ``key`` gives as ``name=number``."""
        what = self.info["arrays"][key]["what"]
        found = re.findall(rf"({'|'.join(names)})=([-+.\de]+)", what)
        return {name: float(number) if "." in number else int(number) for name, number in found}

    def tolerance(self, key: str) -> float:
        """Ten times the difference that float32 made in the original, plus 1e-5."""
        return 10 * self.info["arrays"][key].get("float64_difference", 0.0) + 1e-5

    def expect(self, key: str, value: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Assert that ``value`` is the stored array, within its tolerance; integers must be equal. With ``mask`` only
        its True places are compared."""
        expected = self[key]
        value = value.detach().cpu()
        assert value.shape == expected.shape, f"{key}: shape {tuple(value.shape)} != {tuple(expected.shape)}"
        self.expect_close(key, value, expected, mask)

    def expect_close(
        self, key: str, value: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor | None = None
    ) -> None:
        """The same for a part of the array ``key``."""
        if mask is not None:
            value, expected = value[mask.bool()], expected[mask.bool()]
        if not expected.is_floating_point():
            assert torch.equal(value.to(expected.dtype), expected), key
            return
        torch.testing.assert_close(
            value.double(),
            expected.double(),
            rtol=1e-5,
            atol=self.tolerance(key),
            msg=lambda m: f"{key}: {m}",
        )

    def input(self, name: str) -> torch.Tensor:
        """The random input of that noise name, rebuilt and checked against its stored sum."""
        entry = self.info["generated_inputs"][name]
        seed = self.info["model"]["seed"] if "model" in self.info else self.info["seed"]
        if "block" in entry:
            array = fill_module.block_noise(seed, entry["noise_name"], entry["shape"], entry["block"])
        else:
            array = fill_module.noise(seed, entry["noise_name"], entry["shape"])
        np.testing.assert_allclose(array.reshape(-1)[:4], entry["first"][:4], rtol=1e-6)
        return torch.from_numpy(array)


def manifest(path: str) -> dict[str, Any]:
    """A manifest by the name that a case gives it ("manifests/decoder_base_384.json")."""
    return json.loads((ASSETS / path).read_text())


def filled_state(model_info: dict[str, Any], shapes: dict[str, list[int]] | None = None) -> dict[str, torch.Tensor]:
    """The filled weights of a case's model: every floating-point entry of its state dict."""
    if shapes is None:
        shapes = model_info["state_dict"]
    names = {k: s for k, s in shapes.items() if k not in model_info["integer_buffers"]}
    values = fill_module.fill(names, model_info["seed"], model_info.get("tied"), model_info.get("overrides", ()))
    return {name: torch.from_numpy(value) for name, value in values.items()}


def check_logits(case: Case, prefix: str, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """Compare logits [..., V] with the stored summary: values at ``probe_ids``, logsumexp, mean, deviation, top 5."""
    top = logits.topk(5)
    summary = {
        "probe": logits[..., case["probe_ids"]],
        "lse": logits.logsumexp(-1),
        "mean": logits.mean(-1),
        "std": logits.std(-1, unbiased=False),
        "top5": top.values,
        "top5_ids": top.indices,
    }
    for name, value in summary.items():
        case.expect(f"{prefix}_{name}", value, mask)


def check_tokens(case: Case, prefix: str, tokens: torch.Tensor) -> None:
    """Compare features [B, L, D] with the stored summary: first values of the first and the last token, norms of some
    tokens, sum and norm of all (the sum relative to the norm)."""
    count = case[f"{prefix}_first"].shape[1]
    case.expect(f"{prefix}_first", tokens[:, 0, :count])
    case.expect(f"{prefix}_last", tokens[:, -1, :count])
    stride = re.search(r"every (\d+)", case.info["arrays"][f"{prefix}_token_norms"]["what"])
    assert stride is not None
    case.expect(f"{prefix}_token_norms", tokens[:, :: int(stride[1])].norm(dim=-1))
    norm = tokens.flatten(1).norm(dim=1)
    torch.testing.assert_close(norm, case[f"{prefix}_norm"], rtol=1e-5, atol=0)
    assert ((tokens.sum((1, 2)) - case[f"{prefix}_sum"]).abs() <= 1e-4 * norm).all()


def check_gradients(
    case: Case, parameters: dict[str, torch.nn.Parameter], rtol: float = 2e-4, key: str = "gradients"
) -> None:
    """Compare norm, sum and first values of each gradient stored under ``key``, and the total norm over distinct
    parameters."""
    for name, expected in case.info[key].items():
        gradient = parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        norm = gradient.double().norm().item()
        scale = max(expected["norm"], 1e-3)
        assert abs(norm - expected["norm"]) <= rtol * scale, f"{name}: norm {norm} != {expected['norm']}"
        first = gradient.reshape(-1)[: len(expected["first"])].double().tolist()
        for a, b in zip(first, expected["first"]):
            assert abs(a - b) <= rtol * scale, f"{name}: {first} != {expected['first']}"
    unique = {id(p): p for p in parameters.values() if p.grad is not None}
    total = sum(p.grad.double().pow(2).sum().item() for p in unique.values()) ** 0.5  # type: ignore[union-attr]
    assert abs(total - case.info["gradient_total_norm"]) <= rtol * case.info["gradient_total_norm"]
