"""What all tests share."""

import os

# The models here are tiny: one thread is the fastest, and on busy cores by far (threads that spin wait for each other).
# Set before torch is imported, and inherited by the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
