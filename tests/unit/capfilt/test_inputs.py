"""Seeds of images."""

from __future__ import annotations

import hashlib

from vlkit.capfilt.inputs import seed_of


def test_it_is_the_documented_hash():
    # blake2b of "7:a/b", 8 bytes, big-endian, without the lowest bit.
    digest = hashlib.blake2b(b"7:a/b", digest_size=8).digest()
    assert seed_of("a/b", 7) == int.from_bytes(digest, "big") // 2


def test_other_keys_and_other_seeds_give_other_numbers():
    found = {seed_of(key, seed) for key in ("1", "11", "é", "\udc80") for seed in (0, 1)}
    assert len(found) == 8
    assert all(0 <= seed < 2**63 for seed in found)
