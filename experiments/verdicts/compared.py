"""
improved_comparison_results.txt: the comparison in words and numbers, from the trials alone.
"""

from __future__ import annotations

from experiments.verdicts.trials import MEASURES, Trials, spread
from experiments.verdicts.verdict import NOT_COMPARABLE, p_text

NAME = "improved_comparison_results.txt"
TITLES = {"final_loss": "final training loss", "val_loss": "validation loss", "bits_per_byte": "bits per byte",
          "perplexity": "perplexity", "tokens_per_second": "tokens per second", "seconds": "seconds of training",
          "peak_memory_mb": "peak memory (MB)"}


def text(trials: Trials) -> str:
    """A block a measure: mean ± sd of each arm, its change in per cent, the paired and the unpaired test."""
    blocks = [f"{trials.title}\nbaseline: {trials.baseline}; {len(trials.all)} finished runs"
              + (f", {len(trials.diverged)} that diverged" if trials.diverged else "") + "; paired by seed, "
              "Holm over the arms of a measure; Welch and Cohen's d take the runs as unpaired"]
    blocks += [_block(trials, measure) for measure in MEASURES if trials.values(measure)]
    blocks.append("Timing and memory are measurements of one machine. A test on them says whether these runs differ, "
                  "not whether another machine's would.")
    return "\n\n".join(blocks) + "\n"


def _block(trials: Trials, measure: str) -> str:
    values, verdicts = trials.values(measure), trials.verdicts(measure)
    width = max(map(len, values))
    lines = [TITLES[measure]]
    base = spread(list(values[trials.baseline].values())) if trials.baseline in values else None
    for arm, runs in values.items():
        mean, sd = spread(list(runs.values()))
        digits = 4 if abs(base[0] if base else mean) < 100 else 1
        line = f"  {arm:{width}s}  {mean:>12,.{digits}f}" + (f" ± {sd:,.{digits}f}" if sd is not None else "")
        line += f"  n = {len(runs)}"
        if base and arm != trials.baseline and arm not in trials.bars(measure):
            line += f"  {100 * (mean / base[0] - 1):+.2f} %" if base[0] else ""
        lines.append((line + _tests(verdicts.get(arm))).replace("-", "−"))
    return "\n".join(lines)


def _tests(verdict) -> str:
    if verdict is None:
        return ""
    if verdict.word == NOT_COMPARABLE:
        return f"; {verdict.word}: {verdict.reason}"
    parts = [p_text("paired Holm p", verdict.p_holm)] if verdict.p_holm is not None else []
    parts += [p_text("Welch p", verdict.p_welch)] if verdict.p_welch is not None else []
    parts += [f"d {verdict.cohens_d:+.2f}"] if verdict.cohens_d is not None else []
    return "".join(f"; {part}" for part in (", ".join(parts), verdict.reason) if part)
