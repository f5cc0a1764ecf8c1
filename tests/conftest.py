"""What holds for all tests."""

import os

from hypothesis import settings

# Time is measured in benchmarks/, never in a test. Where CI decides, the same commit gives the same answer; elsewhere new cases are sought.
settings.register_profile("latentgraph", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("latentgraph")
