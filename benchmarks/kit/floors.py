"""
What is to be reached, in one place: every benchmark prints its floor beside each ratio, and whether
it is met.

Ratios are peer over ours where more is better (`speed`: seconds; `per_token`), ours over peer where
less is (`memory`).
"""

from __future__ import annotations

from dataclasses import dataclass

AT_LEAST, AT_MOST = "≥", "≤"


@dataclass(frozen=True)
class Floor:
    """The least (or with AT_MOST the most) that a ratio may be."""
    value: float
    sense: str = AT_LEAST

    def met(self, ratio: float) -> bool:
        """As printed, with two decimals: 1.996 has reached 2.0."""
        shown = round(ratio, 2)
        return shown >= self.value if self.sense == AT_LEAST else shown <= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"


def _floors(sense: str, **values: float) -> dict[str, Floor]:
    return {name.replace("_", " "): Floor(value, sense) for name, value in values.items()}


# (benchmark, case) → whose ratio → its floor. On a CPU, fp32, two cores.
SPEED: dict[tuple[str, str], dict[str, Floor]] = {
    ("step", "gpt-mini"): _floors(AT_LEAST, minGPT=2.0, nanoGPT=1.4, nanoGPT_compiled=1.35,
                                  transformers=1.6),
    ("step", "gpt-micro"): _floors(AT_LEAST, minGPT=1.7, nanoGPT=1.6, nanoGPT_compiled=1.5,
                                   transformers=1.5),
    ("step", "gpt2"): _floors(AT_LEAST, minGPT=1.6, nanoGPT=1.0, nanoGPT_compiled=1.0,
                              transformers=1.25),
    ("step", "llama-mini"): _floors(AT_LEAST, litgpt=1.5, transformers_Llama=1.5),
    ("generation", "gpt2"): _floors(AT_LEAST, minGPT=35, nanoGPT=18, transformers=1.1),
}
MEMORY = {   # ours over theirs
    ("step", "gpt-mini"): _floors(AT_MOST, nanoGPT=0.45),
    ("step", "gpt2"): _floors(AT_MOST, nanoGPT=0.9),
}
SHARE_OF_PEAK = {   # ours, of the machine's matrix product
    ("step", "gpt-mini"): Floor(0.58),
    ("step", "gpt2"): Floor(0.62),
}
CUDA_SPEED = {("step", "gpt2"): _floors(AT_LEAST, nanoGPT=1.3)}
ARM_PER_FLOP = Floor(1.10, AT_MOST)   # an arm's step per FLOP, over the baseline's
