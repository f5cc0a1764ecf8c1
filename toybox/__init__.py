"""The toybox: an embedded picture world with exact ground truth, and the small text-to-image model trained on it."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
