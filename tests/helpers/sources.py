"""Studies that begin with another model's weights, where there is neither a network nor time for
124 M parameters."""

from experiments.declare.study import load_study


def small(study: str) -> list[str]:
    """Overrides: nothing for a study that begins with weights of its own; else none but those, in a
    smaller model."""
    if "run.init" not in load_study(study).base:
        return []
    return ["--run.init=None", "--model.n_layer=2", "--model.n_head=12", "--model.n_embd=48",
            "--model.block_size=64",
            "--data.length=32", "--data.tokenizer=byte"]
