"""Makes small data sets of files, for tests and examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vlkit.datasets.shapes.captions import paraphrases
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shapes.scene import render


def coco_file(folder: str | Path, count: int = 8, seed: int = 0, image_size: int = 48, captions: int = 5) -> Path:
    """Scenes of the toy dataset as PNG files, and their true captions in COCO's format.

    Args:
        folder: made if missing; gets ``captions.json`` and ``images/*.png``. Image names start from it.
        count: images.
        seed: of the scenes; other seeds give other scenes.
        image_size: side in pixels.
        captions: of each image, at most; no scene has fewer than 8 wordings.

    Returns:
        The captions file.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    world = Shapes(size=count, seed=seed)
    images, annotations = [], []
    for index in range(count):
        scene, name = world.scene(index), f"images/{index + 1:06d}.png"
        Image.fromarray(render(scene, image_size)).save(folder / name)
        images.append({"id": index + 1, "file_name": name, "width": image_size, "height": image_size})
        for text in paraphrases(scene, np.random.default_rng([seed, index]), captions):
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "caption": text})
    file = folder / "captions.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return file
