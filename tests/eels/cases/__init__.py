"""Hand-made cases. Each is a named function of a fork that gives one case or none."""

from __future__ import annotations

from .registry import HandMade, all_cases

__all__ = ["HandMade", "all_cases"]
