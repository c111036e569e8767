"""The toy dataset: procedural scenes of colored shapes with a known scene graph.

``scene`` samples scene graphs, ``render`` draws them, ``captions``, ``questions``, ``pairs`` and ``videos`` derive
texts from graphs, ``checker`` decides whether a caption is true (the metric of the toy dataset), ``dataset`` and
``heads`` hold the datasets that a configuration can name.
"""
