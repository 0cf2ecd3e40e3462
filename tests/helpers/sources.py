"""Make studies that begin with another model's weights small enough for tests.

Tests have no network, and no time for 124 M parameters.
"""

from experiments.declare.study import load_study


def small(study: str) -> list[str]:
    """Overrides that make a study begin with fresh weights, in a smaller model.

    Empty for a study that begins with fresh weights anyway.
    """
    if "run.init" not in load_study(study).base:
        return []
    return ["--run.init=None", "--model.n_layer=2", "--model.n_head=12", "--model.n_embd=48",
            "--model.block_size=64", "--data.length=32", "--data.tokenizer=byte"]
