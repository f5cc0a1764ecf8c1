"""What holds for all tests."""

import os

from hypothesis import settings

# With several threads torch's kernels may round equal rows of a batch differently, and many tests compare them bit for bit. Heard before
# torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time is measured in benchmarks/, never in a test. Where CI decides, the same commit gives the same answer; elsewhere new cases are sought.
settings.register_profile("latentgraph", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("latentgraph")
