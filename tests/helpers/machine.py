"""What tests need of the machine."""

from __future__ import annotations

import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
