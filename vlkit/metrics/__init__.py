"""Scores as plain functions on arrays and strings; nothing here knows models, datasets or processes."""
