"""The report of a CapFilt output: numbers, charts and examples as a page, a picture and a JSON file."""

from __future__ import annotations

from vlkit.capfilt.report.report import write_report

__all__ = ["write_report"]
