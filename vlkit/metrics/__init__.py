"""Metrics as pure functions of arrays and strings; independent of models, datasets and processes."""
