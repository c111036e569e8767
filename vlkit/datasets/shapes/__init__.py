"""The embedded world: procedural scenes of colored shapes whose scene graph is known.

``scene`` draws graphs, ``render`` makes pixels, ``captions``, ``noise``, ``questions``, ``pairs``,
``dialogs`` and ``videos`` say things about graphs, ``checker`` says whether a caption is true, ``dataset``
and ``heads`` are the datasets a config can name.
"""
