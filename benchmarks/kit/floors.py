"""
The floors, that is, the ratios to reach. The benchmarks print each ratio's floor and whether it is
met.

A ratio is peer over ours where more is better (`speed`: seconds; `per_token`), and ours over peer
where less is better (`memory`).
"""

from __future__ import annotations

from dataclasses import dataclass

AT_LEAST, AT_MOST = "≥", "≤"


@dataclass(frozen=True)
class Floor:
    """The least value that a ratio may have; with AT_MOST, the greatest."""
    value: float
    sense: str = AT_LEAST

    def met(self, ratio: float) -> bool:
        """Whether the ratio, rounded to two decimals as printed, meets the floor: 1.996 meets 2."""
        shown = round(ratio, 2)
        return shown >= self.value if self.sense == AT_LEAST else shown <= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"


def _floors(sense: str, **values: float) -> dict[str, Floor]:
    return {name.replace("_", " "): Floor(value, sense) for name, value in values.items()}


# {(benchmark, case): {peer: floor}}, measured on a CPU with two cores in float32
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
SHARE_OF_PEAK = {   # ours over a plain matrix product on the same machine
    ("step", "gpt-mini"): Floor(0.58),
    ("step", "gpt2"): Floor(0.62),
}
CUDA_SPEED = {("step", "gpt2"): _floors(AT_LEAST, nanoGPT=1.3)}
ARM_PER_FLOP = Floor(1.10, AT_MOST)   # an arm's time per FLOP over the baseline's
