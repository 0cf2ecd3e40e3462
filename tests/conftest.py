"""What all tests share."""

import os

# The models here are tiny: one thread is the fastest, and on busy cores by far (threads that spin
# wait for each other). Set before torch is imported, and inherited by the programs that tests
# start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

# laid beside the checkout where there is one
REAL_TEXT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_text():
    """real_text(name): the path of a file of real text; skips the test where there is none."""
    def find(name: str) -> Path:
        path = REAL_TEXT / name
        if not path.exists():
            pytest.skip(f"no real text here: {path}")
        return path
    return find


@pytest.fixture
def frozen():
    """statsmodels' multipletests collects garbage at every call; what is frozen it leaves alone."""
    import gc
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def data_config(tmp_path):
    """data_config(paths, **settings): a data section whose cache is the test's own."""
    from experiments.corpus import get_default_config

    def make(*paths, **settings):
        config = get_default_config()
        config.merge_from_dict({"paths": [str(p) for p in paths], "tokenizer": "byte",
                                "max_bad": 0.0,
                                "cache": str(tmp_path / "cache"), **settings})
        return config
    return make
