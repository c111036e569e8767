"""The reference of the benchmarks: how the original implementation of BLIP does its work, written again as plain code.

Everything is fp32. Texts are padded to a fixed length, attention is two matrix products around a softmax, image tokens
are repeated for every text that looks at them and projected again by every layer for each of these copies. No model or
loop of ``vlkit`` is used here; :mod:`.augment` takes from it what is drawn at random, so that both sides augment alike.
"""

from benchmarks.original import pretrain, retrieval, video, vqa, weights

__all__ = ["pretrain", "retrieval", "video", "vqa", "weights"]
