"""Image ids of the caption evaluation, as the original reads them from file names."""

from tests.parity.golden import Case
from vlkit.datasets.caption_index import coco_image_id


def test_coco_image_ids():
    cases = Case("datasets").info["coco_image_id"]["cases"]
    assert cases
    assert [coco_image_id(name) for name, _ in cases] == [expected for _, expected in cases]
