"""From raw images and texts to what models take: each processor is a callable, registered in ``PROCESSORS``.

``open_image`` reads any picture, ``resize`` crops and scales it, ``randaugment`` (with ``warp``) augments it,
``image`` and ``text`` hold the registered transforms, ``tokenizer`` turns texts into ids and back. Import
what you
need from these modules: this package itself loads nothing.
"""
