"""What the command exits with."""

from __future__ import annotations

__all__ = ["CANCELLED", "DONE", "FAILED", "INVALID", "USAGE"]

DONE, FAILED, USAGE, INVALID, CANCELLED = 0, 1, 2, 3, 130
