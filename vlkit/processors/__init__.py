"""Convert images, texts and videos to model inputs. Processors are callables, registered in ``PROCESSORS``.

``open_image`` reads image files, ``resize`` crops and scales, ``randaugment`` (with ``warp``) augments, ``image``,
``text`` and ``video`` hold the registered transforms, ``tokenizer`` converts texts to ids and back. The package itself
loads none of them.
"""
