"""The random numbers of an image: from its key alone, so that they are the same in any batch, process and call."""

from __future__ import annotations

import hashlib


def seed_of(key: str, seed: int) -> int:
    """The seed of the image ``key`` in a job with ``seed``.

    Returns:
        0 .. 2**63 - 1.
    """
    digest = hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
