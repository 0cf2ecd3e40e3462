"""Settings and fixtures that all tests share."""

import os

# The models of the tests are tiny, so one thread is the fastest, and by far on busy cores, where
# spinning threads wait for each other. This is set before torch is imported, and the programs that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

# optional: a folder of real text beside the checkout
REAL_TEXT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_text():
    """real_text(name): the path of a file of real text. Skips the test if the file is missing."""
    def find(name: str) -> Path:
        path = REAL_TEXT / name
        if not path.exists():
            pytest.skip(f"no real text here: {path}")
        return path
    return find


@pytest.fixture
def frozen():
    """Freeze all objects: statsmodels' multipletests runs the garbage collector on every call."""
    import gc
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def data_config(tmp_path):
    """data_config(*paths, **settings): a data section with a cache in the test's own folder."""
    from experiments.corpus import get_default_config

    def make(*paths, **settings):
        config = get_default_config()
        config.merge_from_dict({"paths": [str(p) for p in paths], "tokenizer": "byte",
                                "max_bad": 0.0, "cache": str(tmp_path / "cache"), **settings})
        return config
    return make
