"""Output folders of CapFilt without any model: the engine's writer is given texts and scores."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.shard_output import ShardOutput
from vlkit.capfilt.storage import Storage
from vlkit.datasets.shapes.captions import caption, web_caption
from vlkit.datasets.shapes.scene import render, sample_scene, stream


@dataclass
class Text:
    """A text as a model gives it."""

    text: str
    source: str
    itm: float
    itc: float | None = None
    log_prob: float | None = None


Entry = tuple[Item, list[Text]] | Refused


def png(color: tuple[int, int, int] = (0, 128, 255), size: int = 8) -> bytes:
    """An encoded picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), color).save(file, "PNG")
    return file.getvalue()


def shape_entries(shard: int, count: int) -> list[Entry]:
    """Scenes with web and synthetic texts whose scores say, mostly rightly, whether they are true."""
    entries: list[Entry] = []
    for index in range(count):
        rng = stream(7, shard, index)
        scene = sample_scene(rng)
        web, kind = web_caption(scene, rng)
        file = io.BytesIO()
        Image.fromarray(render(scene, 48)).save(file, "PNG")
        right = kind == "clean"
        item = Item(f"{shard:03}{index:05}", file.getvalue(), "png", (web,), {"scene": scene.to_dict(), "url": "x"})
        itm = rng.beta(6, 0.6) if right else rng.beta(0.5, 3)
        synthetic = caption(sample_scene(rng) if rng.random() < 0.2 else scene, rng)
        own = Text(synthetic, "synthetic", rng.beta(5, 1), rng.normal(0.45, 0.1), float(-rng.exponential(9)))
        entries.append((item, [Text(web, "web", itm, rng.normal(0.4 if right else 0.25, 0.1)), own]))
        if index % 10 == 3:
            entries.append(Refused(f"bad{index}", "image", "undecodable image", "cut <off>"))
            entries.append(Refused(f"bad{index}", "text", "no image"))
    return entries


def write_output(
    folder: Path | str,
    shards: Sequence[Sequence[Entry]],
    decision: Decision | None = None,
    store_dropped: bool = True,
    missing: int = 0,
    store_images: bool = True,
) -> Path:
    """Write an output folder.

    Args:
        folder: where.
        shards: what each of them holds.
        decision: which texts are kept.
        store_dropped: as in a job.
        missing: further shards of the input that are not done.
        store_images: as ``run.output`` of a job.
    """
    decision = decision or Decision()
    with Storage(folder) as place:
        names = [f"part-{number:03}" for number in range(len(shards) + missing)]
        record = {
            "model": {"name": "blip_capfilt"},
            "task": {"name": "capfilt", "decision": asdict(decision)},
            "run": {"store_dropped": store_dropped},
            "inputs": {name: {"name": name, "kind": "tar"} for name in names},
        }
        place.write_bytes("capfilt.json", json.dumps(record, indent=1).encode() + b"\n")
        for name, entries in zip(names, shards):
            write_shard(place, name, entries, decision, store_dropped, store_images)
    return Path(folder)


def write_shard(
    place: Storage,
    name: str,
    entries: Sequence[Entry],
    decision: Decision,
    store_dropped: bool = True,
    store_images: bool = True,
) -> None:
    """Write one shard of an output folder."""
    output = ShardOutput(name, place, decision, store_dropped, store_images)
    images = texts = 0
    for entry in entries:
        if isinstance(entry, Refused):
            images += entry.kind == "image"
            texts += entry.kind == "text"
            output.refuse(entry)
        else:
            images, texts = images + 1, texts + len(entry[0].texts)
            output.add(*entry)
    output.finish(images, texts)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by relative name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def hostile_entry() -> Entry:
    """An image whose web text attacks the page that it is shown on."""
    text = "</q><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\u202eback\" style='x'"
    item = Item("evil", png(), "png", (text,), {"url": "http://evil.example"})
    return item, [Text(text, "web", float(np.float32(0.5001)), 0.1), Text("a blue square", "synthetic", 0.9, 0.5, -3.0)]
