"""Any picture a data set may hold, as 8-bit RGB."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from vlkit.errors import BadSample

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB: Pillow's own idea of a decompression bomb
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """``source`` as a person would see it: upright (EXIF), on white, the first frame of an animation.

    Grey pictures of 16 bits are scaled to 8 bits. So are 32-bit integers in 0..65535; floats are taken as
    0..1 if they lie there, else as 0..255. Values outside these ranges are stretched from their minimum and
    maximum.

    Args:
        source: a path, an encoded file as bytes, a PIL image, a uint8 array [H, W, 3] (or [H, W], or with 1
            or 4 channels), or a uint8 tensor [3, H, W] (or with 1 or 4 channels).
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        An image of mode RGB. A PIL image that is RGB and upright is returned itself.

    Raises:
        BadSample: nothing can be shown, with the reason.
    """
    if isinstance(source, np.ndarray):
        return _composed(_from_array(source))
    if _is_tensor(source):
        return _composed(_from_tensor(source))
    name = describe(source)
    if isinstance(source, Image.Image):
        return _guarded(source, name, max_pixels)
    return _guarded(read_bytes(source), name, max_pixels)


def describe(source: Any) -> str:
    """What to call ``source`` in a message: its path where it has one."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"encoded image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"PIL image {source.mode} {source.size[0]}x{source.size[1]}"
    shape = getattr(source, "shape", None)
    return type(source).__name__ if shape is None else f"{type(source).__name__} {tuple(shape)} {source.dtype}"


def read_bytes(source: Any) -> bytes:
    """The encoded file behind a path, or the bytes given.

    Raises:
        BadSample: there is no such file, it is empty, or ``source`` is of another type.
    """
    name = describe(source)
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            if not path.is_file():
                raise BadSample(name, "a folder, not an image file" if path.is_dir() else "no such file")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise BadSample(name, f"cannot be read: {error}") from error
    else:
        raise BadSample(name, "not an image: give a path, bytes, a PIL image, a uint8 array or a uint8 tensor")
    if not data:
        raise BadSample(name, "the file is empty (0 bytes)")
    return data


def header(data: bytes) -> Image.Image:
    """The encoded image as PIL sees it before decoding: format, mode, size and metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata and large sizes are ours to judge, whatever the filters say
        return Image.open(io.BytesIO(data))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The base class reads what the header held; some formats' own method would decode the picture.
            value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # broken metadata say nothing about the picture
        return 1
    return value if value in _UPRIGHT else 1


def check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse a picture of more than ``max_pixels``.

    Raises:
        BadSample: it has more.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise BadSample(name, f"{width}x{height} pixels, more than the {max_pixels} allowed (decompression bomb?)")


def _guarded(source: bytes | Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Decode and convert; whatever Pillow throws at a broken file becomes :class:`BadSample`."""
    try:
        image = source if isinstance(source, Image.Image) else header(source)
        check_size(image, name, max_pixels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            return _upright(image, _composed(image))
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample(name, f"decompression bomb: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise BadSample(name, "not an image file, or of a format that Pillow cannot read") from error
    except MemoryError as error:
        raise BadSample(name, "too large for the memory") from error
    except Exception as error:  # decoders raise nearly everything: OSError, SyntaxError, struct.error, IndexError
        raise BadSample(name, f"cannot be decoded: {error or type(error).__name__}") from error


def _upright(image: Image.Image, shown: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(orientation(image))
    return shown if turn is None else shown.transpose(turn)


def _composed(image: Image.Image) -> Image.Image:
    """RGB without transparency."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8bit(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8bit(image: Image.Image) -> np.ndarray:
    """A grey picture of 16 or 32 bits or floats, as uint8 [H, W]."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = values.min(), values.max()
    # In a file, mode I holds 16 bits (PNG, PGM); made in memory, it may well be a widened 8-bit picture.
    in_memory = image.format is None
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and high <= 65535):
        scale = 255.0 if image.mode == "I" and in_memory and high <= 255 else 65535.0
    elif image.mode == "F" and low >= 0 and high <= 255:
        scale = 1.0 if high <= 1 else 255.0
    else:
        values, scale = values - low, max(high - low, 1e-12)
    return np.rint(values * (255 / scale)).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    name = describe(array)
    if array.dtype != np.uint8:
        raise BadSample(name, f"values of type {array.dtype}: an array or tensor must be uint8 (0..255)")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise BadSample(name, "an array must be [H, W, 3] or [H, W], a tensor [3, H, W]")
    if array.size == 0:
        raise BadSample(name, "has no pixels")
    return Image.fromarray(np.ascontiguousarray(array))


def _from_tensor(tensor: Any) -> Image.Image:
    if tensor.ndim == 3:
        tensor = tensor.movedim(0, -1)
    return _from_array(tensor.detach().cpu().numpy())


def _is_tensor(source: Any) -> bool:
    return hasattr(source, "detach") and hasattr(source, "movedim")
