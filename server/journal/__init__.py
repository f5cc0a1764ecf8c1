"""Queue, history and events on disk."""

from server.journal.journal import Duplicate, Journal
from server.journal.schema import Busy

__all__ = ["Busy", "Duplicate", "Journal"]
