"""A run folder as one offline HTML page."""

from headwater.report.page import render
from headwater.report.record import Record, read

__all__ = ["Record", "read", "render"]
