"""Open images of any kind as 8-bit RGB."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from vlkit.errors import BadSample
from vlkit.processors.encoded import MAX_PIXELS, TooLarge, open_encoded, unknown
from vlkit.processors.file_kinds import file_size, kind_of

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"

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
_STRIP = 1_000_000  # pixels that are converted at once: more take twice the time, and much memory
_HEAD, _LARGE = 4096, 64_000_000  # bytes

_lock = threading.Lock()
_inside = 0
_limit: int | None = None
_filters: warnings.catch_warnings | None = None


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return ``source`` as it is displayed: upright (EXIF), on white, the first frame of an animation.

    Gray pictures of 16 bits are scaled to 8 bits. So are 32-bit integers in 0..65535; floats are taken as
    0..1 if they lie there, else as 0..255. Values outside these ranges are stretched from their minimum and
    maximum.

    Args:
        source: a path, an encoded file as bytes, a PIL image, a uint8 array [H, W, 3] (or [H, W], or with 1
            or 4 channels), or a uint8 tensor [3, H, W] (or with 1 or 4 channels).
        max_pixels: larger files are refused before they are decoded; see
            :func:`~vlkit.processors.encoded.open_encoded`. What is decoded already is never refused.

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
        if 0 in source.size:
            raise BadSample(name, "has no pixels")
        return _guarded(source, name, max_pixels)
    return _guarded(read_bytes(source, max_pixels), name, max_pixels)


def describe(source: Any) -> str:
    """Return a name of ``source`` for messages: its path if it has one."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"encoded image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"PIL image {source.mode} {source.size[0]}x{source.size[1]}"
    shape = getattr(source, "shape", None)
    return type(source).__name__ if shape is None else f"{type(source).__name__} {tuple(shape)} {source.dtype}"


def read_bytes(source: Any, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of the file at a path, or the bytes given.

    Args:
        source: a path or bytes.
        max_pixels: a file that is larger than such a picture can be is not read.

    Raises:
        BadSample: there is no such file, it is empty, no regular file or too large, or ``source`` is of another type.
    """
    name = describe(source)
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, os.PathLike)):
        try:
            data = _read_file(name, 8 * max_pixels + _LARGE)
        except (OSError, ValueError) as error:
            raise BadSample(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except MemoryError as error:
            raise BadSample(name, "too large for the memory") from error
    else:
        raise BadSample(name, "not an image: give a path, bytes, a PIL image, a uint8 array or a uint8 tensor")
    if not data:
        raise BadSample(name, "the file is empty (0 bytes)")
    return data


def _read_file(name: str, limit: int) -> bytes:
    size = file_size(name, "an image file")
    if size == 0:  # files of /proc, which may never end, say so too
        return b""
    with open(name, "rb") as file:
        if size > _LARGE:
            head = file.read(_HEAD)
            if kind := kind_of(head):
                raise BadSample(name, f"{kind}, not an image file that is read")
            if size > limit:
                raise TooLarge(
                    name,
                    f"{size:,} bytes, more than {limit:,}, the most for an image of max_pixels. Set "
                    "max_pixels of the image processor to admit it",
                )
            return head + file.read(size - _HEAD)
        return file.read(size)


def _guarded(source: bytes | Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Decode and convert; whatever Pillow throws at a broken file becomes :class:`BadSample`."""
    try:
        with pillow_without_limits():
            if isinstance(source, Image.Image):
                source.load()
                return _upright(_composed(source), _orientation(source))
            opened = open_encoded(source, name, max_pixels)
            opened.image.load()
            return _upright(_composed(opened.image), opened.orientation)
    except BadSample:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadSample(name, unknown(source, name) if isinstance(source, bytes) else str(error)) from error
    except MemoryError as error:
        raise BadSample(name, "too large for the memory") from error
    except Exception as error:  # decoders raise nearly everything: OSError, SyntaxError, struct.error, IndexError
        raise BadSample(name, f"cannot be decoded: {error or type(error).__name__}") from error


@contextmanager
def pillow_without_limits() -> Iterator[None]:
    """Disable Pillow's warnings and size limit inside: vlkit checks metadata and sizes itself.

    Threads may overlap: the first one that enters saves what is global, the last one that leaves restores it.
    """
    global _inside, _limit, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                if Image.MAX_IMAGE_PIXELS is None:  # otherwise somebody set it meanwhile
                    Image.MAX_IMAGE_PIXELS = _limit
                if _filters is not None:
                    _filters.__exit__(None, None, None)
                _filters = None


def encoded_format(data: bytes) -> str:
    """Return Pillow's name of the format of an image file, or "" if it is not supported."""
    try:
        with pillow_without_limits():
            return open_encoded(data, "").image.format or ""
    except Exception:  # Pillow raises nearly everything on a broken file; decoding it says why
        return ""


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a PIL image, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        # The base class reads what the header held; some formats' own method would decode the picture.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # broken metadata say nothing about the picture
        return 1
    return value if value in _UPRIGHT else 1


def _upright(shown: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return shown if turn is None else _without_orientation(shown.transpose(turn))


def _without_orientation(image: Image.Image) -> Image.Image:
    """Remove the metadata that ask for a rotation, so that a picture opened twice is turned once."""
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    return image


def _composed(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparency on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8bit(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        strips = _strips(image)
        if len(strips) == 1:
            return _on_white(image)
        shown = Image.new("RGB", image.size)
        with pillow_without_limits():
            for top, bottom in strips:
                shown.paste(_on_white(image.crop((0, top, image.width, bottom))), (0, top))
        return shown
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _strips(image: Image.Image) -> list[tuple[int, int]]:
    """Return top and bottom of strips of at most ``_STRIP`` pixels."""
    rows = max(1, _STRIP // max(1, image.width))
    return [(top, min(image.height, top + rows)) for top in range(0, image.height, rows)]


def _to_8bit(image: Image.Image) -> np.ndarray:
    """Scale a gray picture of 16 or 32 bits or floats to uint8 [H, W]."""
    source, strips = np.asarray(image), _strips(image)

    def values(top: int, bottom: int) -> np.ndarray:
        return np.nan_to_num(source[top:bottom].astype(np.float64))

    sixteen = image.mode.startswith("I;16")
    extremes = [] if sixteen else [(part.min(), part.max()) for part in (values(*strip) for strip in strips)]
    low, high = (0.0, 65535.0) if sixteen else (min(e[0] for e in extremes), max(e[1] for e in extremes))
    # In a file, mode I holds 16 bits (PNG, PGM); made in memory, it may well be a widened 8-bit picture.
    in_memory = image.format is None
    shift = 0.0
    if sixteen or (image.mode == "I" and low >= 0 and high <= 65535):
        scale = 255.0 if image.mode == "I" and in_memory and high <= 255 else 65535.0
    elif image.mode == "F" and low >= 0 and high <= 255:
        scale = 1.0 if high <= 1 else 255.0
    else:
        shift, scale = low, max(high - low, 1e-12)
    eight = np.empty(source.shape, np.uint8)
    for top, bottom in strips:
        eight[top:bottom] = np.rint((values(top, bottom) - shift) * (255 / scale))
    return eight


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
