"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("latentgraph", deadline=None, print_blob=True)  # time is measured in benchmarks/, never in a test
settings.load_profile("latentgraph")
