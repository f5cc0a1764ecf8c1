"""The outside of the engine: the command line, and the composition root that loads node packages by entry point."""
