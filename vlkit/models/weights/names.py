"""Names of weights: translation from and to other libraries, names that a model may ignore, kinds of files.

The names of the original BLIP are ours. LAVIS kept them; Hugging Face renamed the image encoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from vlkit.errors import CheckpointError, VlkitError, did_you_mean

T = TypeVar("T")

QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")
"""Ring queues of training and their pointers: a model can always start with new ones."""

HUGGING_FACE = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.{}.norm1.", "vision_model.encoder.layers.{}.layer_norm1."),
    ("visual_encoder.blocks.{}.attn.qkv.", "vision_model.encoder.layers.{}.self_attn.qkv."),
    ("visual_encoder.blocks.{}.attn.proj.", "vision_model.encoder.layers.{}.self_attn.projection."),
    ("visual_encoder.blocks.{}.norm2.", "vision_model.encoder.layers.{}.layer_norm2."),
    ("visual_encoder.blocks.{}.mlp.", "vision_model.encoder.layers.{}.mlp."),
    ("visual_encoder.norm.", "vision_model.post_layernorm."),
)
"""Our prefix of a name and Hugging Face's; ``{}`` is a number. Other names are the same."""

_MATCHING = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "itm_head.")
HUGGING_FACE_CLASSES = {
    "blip_caption": ("BlipForConditionalGeneration", ("visual_encoder.", "text_decoder.")),
    "blip_vqa": ("BlipForQuestionAnswering", ("visual_encoder.", "text_encoder.", "text_decoder.")),
    "blip_image_text_matching": ("BlipForImageTextRetrieval", _MATCHING),
}
"""Our model, their class, and the prefixes of the weights that the class holds."""


@dataclass(frozen=True)
class Adapter:
    """Rules for reading a kind of checkpoint.

    Args:
        rename: pairs of prefixes, ours and theirs, as :data:`HUGGING_FACE`.
        ignored: prefixes of names that the file may have where the model lacks the whole module.
        fresh: prefixes of names that the file may lack or have in another shape; ``{}`` is a number.
    """

    rename: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def translate(self, state: Mapping[str, T]) -> dict[str, T]:
        """Rename ``state`` to our names."""
        return _renamed(state, [(theirs, ours) for ours, theirs in self.rename])

    def may_ignore(self, name: str, modules: Container[str]) -> bool:
        """Return whether a model with ``modules`` may ignore ``name`` in the file."""
        return name.startswith(self.ignored) and name.partition(".")[0] not in modules

    def may_start_fresh(self, name: str) -> bool:
        """Return whether ``name`` keeps its initial value when the file has no value of its shape."""
        return name in QUEUES or any(_pattern(beginning).match(name) for beginning in self.fresh)


_STARTING_POINT = Adapter(
    ignored=(
        "text_encoder",  # also the momentum encoders: a prefix includes its ``_m``
        "text_decoder.",
        "visual_encoder_m.",
        "vision_proj",
        "text_proj",
        "itm_head.",
        "temp",
        *QUEUES,
    ),
    fresh=(
        "temp",
        "cls_head.",
        "caption_proj.",
        "text_encoder.encoder.layer.{}.crossattention.output.merge_layer.",
        # The answer decoder of VQA attends to text; the pre-trained one to images, which may have another width.
        "text_decoder.bert.encoder.layer.{}.crossattention.self.key.weight",
        "text_decoder.bert.encoder.layer.{}.crossattention.self.value.weight",
    ),
)
ADAPTERS = {
    "blip": Adapter(),
    "lavis": Adapter(),
    "hf": Adapter(rename=HUGGING_FACE),
    "pretrain": _STARTING_POINT,
    "retrieval": _STARTING_POINT,
}
"""Adapters by name. ``pretrain`` and ``retrieval`` load such a checkpoint into a model that has only part of it, or
that adds modules (NLVR2, dialogs)."""


def find_adapter(adapter: str | Adapter | None, names: Iterable[str]) -> Adapter:
    """Return the adapter called ``adapter``; None: chosen by the ``names`` in the file.

    Raises:
        VlkitError: there is none of that name.
    """
    if isinstance(adapter, Adapter):
        return adapter
    if adapter is None:
        given = dict.fromkeys(names)
        ours = from_hugging_face(given)
        chosen = _STARTING_POINT if _kind(ours) in _STARTING_POINTS else ADAPTERS["blip"]
        return replace(chosen, rename=HUGGING_FACE) if ours.keys() != given.keys() else chosen
    if adapter not in ADAPTERS:
        hint = did_you_mean(adapter, ADAPTERS)
        raise VlkitError(f"no adapter is named {adapter!r}.{hint} Known: {', '.join(ADAPTERS)}.")
    return ADAPTERS[adapter]


def twins(name: str) -> list[str]:
    """Return the names in the two cross-attentions of a layer for NLVR2 that a file holds once as ``name``.

    Paper: 5.4, both are initialized from the pre-trained one.
    """
    for once in (".crossattention.self.", ".crossattention.output.dense."):
        if once in name:
            return [name.replace(once, f"{once[:-1]}{twin}.", 1) for twin in (0, 1)]
    return []


def from_hugging_face(state: Mapping[str, T]) -> dict[str, T]:
    """Rename a state dict of a BLIP class of ``transformers`` to our names."""
    return ADAPTERS["hf"].translate(state)


def to_hugging_face(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """Rename a state dict to the names of ``transformers``.

    Args:
        state: of the model, or of a larger one such as the pre-training model.
        model_name: our name of the target model ("blip_caption").

    Raises:
        VlkitError: transformers has no such class.
        CheckpointError: a part is not in ``state``.
    """
    if model_name not in HUGGING_FACE_CLASSES:
        raise VlkitError(
            f"transformers has no class for {model_name!r}.{did_you_mean(model_name, HUGGING_FACE_CLASSES)} "
            f"Known: {', '.join(HUGGING_FACE_CLASSES)}."
        )
    target, parts = HUGGING_FACE_CLASSES[model_name]
    lacking = [part for part in parts if not any(name.startswith(part) for name in state)]
    if lacking:
        raise CheckpointError(
            f"{describe({n: tuple(v.shape) for n, v in state.items()})} cannot become a {target}: "
            f"it has no {' and no '.join(lacking)}."
        )
    kept = {
        name: value
        for name, value in state.items()
        if name.startswith(parts) and not name.endswith(".position_ids")  # not stored there
    }
    return _renamed(kept, HUGGING_FACE)


def _renamed(state: Mapping[str, T], pairs: Iterable[tuple[str, str]]) -> dict[str, T]:
    patterns = [(_pattern(old), new.replace("{}", r"\1")) for old, new in pairs]
    renamed = {}
    for name, value in state.items():
        for pattern, new in patterns:
            if pattern.match(name):
                name = pattern.sub(new, name, count=1)
                break
        renamed[name] = value
    return renamed


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.escape(beginning).replace(r"\{\}", r"(\d+)"))


_PRETRAIN, _RETRIEVAL = "a BLIP pre-training model", "a BLIP retrieval model"
_ITM, _FEATURES = "a BLIP image-text matching model", "a BLIP feature extractor"
_VQA, _CAPTIONER, _NLVR = "a BLIP VQA model", "a BLIP captioner", "a BLIP NLVR2 model"
_STARTING_POINTS = (_PRETRAIN, _RETRIEVAL, _ITM, _FEATURES)
_KINDS = (
    (("Qformer.",), "a BLIP-2 model"),
    (("text_model.",), "a CLIP-like model"),
    (("visual.transformer.",), "a CLIP model"),
    (("visual_encoder.", "cls_head."), _NLVR),
    (("visual_encoder.", "itm_head.", "text_decoder."), _PRETRAIN),
    (("visual_encoder.", "itm_head.", "image_queue"), _RETRIEVAL),
    (("visual_encoder.", "itm_head."), _ITM),
    (("visual_encoder.", "text_encoder.", "text_decoder."), _VQA),
    (("visual_encoder.", "text_decoder."), _CAPTIONER),
    (("visual_encoder.", "text_encoder."), _FEATURES),
    (("visual_encoder.",), "a BLIP image encoder"),
    (("bert.",), "a BERT model"),
    (("blocks.", "patch_embed."), "a vision transformer alone"),
    (("layer1.", "layer4."), "a ResNet"),
)
"""Prefixes that must all occur, and the kind of model; the first match counts."""
_MODELS = {
    _PRETRAIN: "blip_pretrain",
    _RETRIEVAL: "blip_retrieval",
    _ITM: "blip_image_text_matching",
    _VQA: "blip_vqa",
    _CAPTIONER: "blip_caption",
    _NLVR: "blip_nlvr",
    _FEATURES: "blip_feature_extractor",
}
_VITS = {768: "ViT-B", 1024: "ViT-L"}


def model_of(names: Iterable[str]) -> str | None:
    """Return the registered name of the model with these weights (our names); None: unknown."""
    return _MODELS.get(_kind(names) or "")


def describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Describe the kind of model with these names and shapes ("a BLIP captioner with ViT-L/16 at 384 pixels")."""
    ours = from_hugging_face(shapes)
    kind = _kind(ours)
    suffix = " under Hugging Face names" if kind is not None and set(ours) != set(shapes) else ""
    return f"{kind or 'no BLIP model'}{_image_encoder(ours)}{suffix}"


def _kind(names: Iterable[str]) -> str | None:
    known = list(names)

    def has(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in known)

    return next((kind for beginnings, kind in _KINDS if all(map(has, beginnings))), None)


def _image_encoder(shapes: Mapping[str, tuple[int, ...]]) -> str:
    position = shapes.get("visual_encoder.pos_embed", ())
    patch = shapes.get("visual_encoder.patch_embed.proj.weight", ())
    if len(position) != 3 or len(patch) != 4:
        return ""
    pixels = math.isqrt(position[1] - 1) * patch[-1]
    return f" with {_VITS.get(position[2], f'a ViT of width {position[2]}')}/{patch[-1]} at {pixels} pixels"
