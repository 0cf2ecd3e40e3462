"""
A ladder's rungs: the study of each size, how long it trains, and the prediction that is written
down before the largest ones are trained. docs/ladder.md describes ladders.

The study of a rung is OUT/studies/LADDER-SIZE.toml. The file of a rung that is held out is written
last, because it holds the prediction; so every record of that rung holds it too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tomli_w
import torch

from experiments.corpus.tokenizers import get_tokenizer
from experiments.declare.arms import flatten
from experiments.declare.designs import RATE
from experiments.declare.ladder import FARTHEST
from experiments.declare.study import Study, load_study, read_study
from experiments.launch.plan import (
    Job,
    Request,
    duration,
    make_plan,
    seconds_left,
    settings_of,
)
from experiments.records.runs import runs_in
from experiments.train.seeded import describe_model, row_length
from experiments.verdicts.climbed import rests_on
from experiments.verdicts.ladder import effects, foretell
from experiments.verdicts.results import Results
from experiments.weights.published_padding import build_gpt
from mingpt.utils import BadInput, CfgNode, write_atomic

RATE_EXPONENT, BATCH_EXPONENT = -1 / 3, 2 / 3      # of parameters; declare/ladder.py cites them
FEWEST = 3                # rungs that say anything


@dataclass(frozen=True)
class PlannedRung:
    """One size of a ladder, planned. `table` is its study's file without a prediction."""
    number: int                   # from 1
    name: str                     # of its study
    parameters: int               # the baseline's, without embeddings
    iterations: int
    batch_size: int
    rate: float                   # the baseline's
    flops: float                  # of a run of the baseline
    held_out: bool
    table: dict[str, Any]
    jobs: tuple[Job, ...] = ()

    @property
    def seconds(self) -> float:
        """Expected seconds of what is left to run, one run after the other."""
        return seconds_left(list(self.jobs))


def rungs(request: Request, most: int | None = None) -> list[PlannedRung]:
    """Plan the rungs of the request's ladder, at most so many from the smallest on. Raises BadInput
    for sizes that do not grow."""
    if most is not None:
        request = dataclasses.replace(request, study=_cut(request.study, most))
    study = request.study
    sizes = [_size(request, number) for number in range(len(study.ladder.rungs))]
    for number, (small, large) in enumerate(itertools.pairwise(sizes), 2):
        if large["non_embedding"] <= small["non_embedding"]:
            raise BadInput(f"{study.path}: [ladder]: rungs: rung {number} has "
                           f"{large['non_embedding']:,} parameters, not more than the "
                           f"{small['non_embedding']:,} of the one before it")
    names = _names(study.name, [size["non_embedding"] for size in sizes])
    planned = [_rung(request, number, sizes, names) for number in range(len(sizes))]
    told = len(planned) - study.ladder.hold_out
    for rung in planned[told:]:
        if (ahead := rung.flops / planned[told - 1].flops) > FARTHEST:
            raise BadInput(f"{study.path}: [ladder]: {rung.name} needs {ahead:.1f} times the "
                           f"compute of {planned[told - 1].name}: a prediction goes to at most "
                           f"{FARTHEST:g} times; give rungs in between, or hold_out = 0")
    return planned


def _cut(study: Study, most: int) -> Study:
    """The study with its ladder's first rungs alone."""
    ladder = study.ladder
    return dataclasses.replace(study, ladder=dataclasses.replace(
        ladder, rungs=ladder.rungs[:most], seeds=ladder.seeds[:most],
        hold_out=min(ladder.hold_out, most - 2)))


def _size(request: Request, number: int) -> dict[str, Any]:
    """What a rung's size says of its baseline: `describe_model`, and the settings."""
    settings = settings_of(dataclasses.replace(request, study=_sized(request.study, number),
                                               preset=request.preset), request.study.baseline)
    config = CfgNode(**settings.model.to_dict())
    config.vocab_size = get_tokenizer(settings.data.tokenizer).vocab_size
    with torch.device("meta"), contextlib.redirect_stdout(None):
        model = build_gpt(config)
    return describe_model(model, row_length(settings)) | {"settings": settings}


def _sized(study: Study, number: int) -> Study:
    """The study at a rung's size, with the length and rates that its preset and base give."""
    size = study.ladder.rungs[number]
    return dataclasses.replace(study.at_one_size(), **(
        {"preset": size} if isinstance(size, str) else {"base": study.base | size}))


def _names(ladder: str, sizes: Sequence[int]) -> list[str]:
    """The names of the rungs' studies, such as scale-240k."""
    def told(n: int) -> str:
        return (f"{n / 1e6:.0f}M" if n > 10_000_000 else f"{n / 1e3:.0f}k" if n > 10_000
                else str(n))
    short = [told(n) for n in sizes]
    return [f"{ladder}-{size}" for size in (short if len(set(short)) == len(short) else sizes)]


def _rung(request: Request, number: int, sizes: Sequence[dict],
          names: Sequence[str]) -> PlannedRung:
    study, ladder, size = request.study, request.study.ladder, sizes[number]
    trainer, T = size["settings"].trainer, row_length(size["settings"])
    times = size["non_embedding"] / sizes[0]["non_embedding"]
    added = {} if isinstance(ladder.rungs[number], str) else dict(ladder.rungs[number])
    batch_size, rate = trainer.batch_size, trainer.learning_rate
    if ladder.lr == "power":
        first = sizes[0]["settings"].trainer
        batch_size = added.get("trainer.batch_size",
                               max(1, round(first.batch_size * times ** BATCH_EXPONENT)))
        rate = float(f"{first.learning_rate * times ** RATE_EXPONENT:.4g}")
        added |= {"trainer.batch_size": batch_size, RATE: rate,
                  "trainer.warmup_steps": 1 / ladder.tokens_per_parameter}
    if ladder.lr == "mup":
        first = sizes[0]["settings"]
        rate = first.trainer.learning_rate
        added |= {"model.parametrization": "mup", "model.base_n_embd": first.model.n_embd,
                  "model.base_n_head": first.model.n_head, RATE: rate}
    tokens = ladder.tokens_per_parameter * size["non_embedding"]
    iterations = max(1, round(tokens / (batch_size * trainer.accumulation_steps * T)))
    added["trainer.max_iters"] = iterations
    added |= _reported(size["settings"], iterations)
    held_out = number >= len(sizes) - ladder.hold_out
    table = _table(study, number, added) | {"name": names[number], "rung": {
        "ladder": study.name, "number": number + 1, "of": len(sizes),
        "parameters": size["non_embedding"], "tokens_per_parameter": ladder.tokens_per_parameter,
        "held_out": held_out, "target": ladder.target, "studies": list(names)}}
    flops = size["flops_per_token"] * iterations * batch_size * trainer.accumulation_steps * T
    return PlannedRung(number + 1, names[number], size["non_embedding"], iterations, batch_size,
                       rate, float(flops), held_out, table)


def _reported(settings: CfgNode, iterations: int) -> dict[str, int]:
    """How often a run of another length logs, evaluates and saves, so that it does all of them as
    many times as the preset's run."""
    longer = iterations / settings.trainer.max_iters
    return {f"run.{key}": max(1, round(getattr(settings.run, key) * longer))
            for key in ("log_every", "eval_every", "checkpoint_every")}


def _table(study: Study, number: int, added: dict[str, Any]) -> dict[str, Any]:
    """The rung's file: the ladder's own, with this size."""
    size = study.ladder.rungs[number]
    table = {key: value for key, value in study.table.items() if key not in ("ladder", "code")}
    base = flatten(table.get("base", {}), "[base]") | added
    nested: dict[str, Any] = {}
    for key, value in base.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    return table | {"base": nested, "seeds": study.seeds[:study.ladder.seeds[number]],
                    **({"preset": size} if isinstance(size, str) else {}),
                    **({"code": [str(file.resolve()) for file in study.code]} if study.code
                       else {})}


# -- requests --------------------------------------------------------------------------------------

def request_of(request: Request, rung: PlannedRung, **place: Any) -> Request:
    """The request for a rung's study, whose file need not exist yet. `place` is added to its
    [rung]."""
    path = request.out / "studies" / f"{rung.name}.toml"
    place = {"rung": rung.table["rung"] | place} if "rung" in rung.table else {}
    text = tomli_w.dumps(rung.table | place)
    study = read_study(tomllib.loads(text), path, hashlib.sha256(text.encode()).hexdigest()[:12])
    return dataclasses.replace(request, study=study)


def written(request: Request, rung: PlannedRung, below: Sequence[PlannedRung]) -> Request:
    """Write the rung's file and return the request for it. The file of a held-out rung gets the
    prediction from the rungs `below`. Once one of its runs has begun, a prediction stays as it is,
    and none is added."""
    path = request.out / "studies" / f"{rung.name}.toml"
    begun = any((request.out / "losses" / rung.name).glob("*.json"))
    if begun and "rung" in rung.table:
        before = load_study(path).table.get("rung", {}) if path.is_file() else {}
        told = {key: before[key] for key in ("rests_on", "prediction") if key in before}
        place = {"held_out": bool(told)} | told
    else:
        place = prediction(request, rung, below) if rung.held_out else {}
    write_atomic(path, tomli_w.dumps(dict(request_of(request, rung, **place).study.table)))
    return dataclasses.replace(request, study=load_study(path))


def prediction(request: Request, rung: PlannedRung, below: Sequence[PlannedRung]) -> dict[str, Any]:
    """What the rungs below say of this one, for its [rung]: per arm the effect and its interval,
    and the hash of the runs that it rests on."""
    results = [results_of(request, each) for each in below]
    baseline, n = request.study.baseline, len(rung.table["seeds"])
    found, x = {}, np.log([each.flops for each in below])
    for arm in results[0].verdicts if len(below) > 1 else ():
        pairs = [effects(each.values.get(arm, {}), each.values.get(baseline, {}))
                 for each in results]
        told = foretell(x, pairs, math.log(rung.flops), n)
        if told:
            found[arm] = {"effect": float(told.effect), "low": float(told.low),
                          "high": float(told.high)}
    return {"rests_on": rests_on(results), "prediction": found}


def results_of(request: Request, rung: PlannedRung) -> Results:
    """What the runs of a rung's study show."""
    study = request_of(request, rung).study
    folder = request.out / "losses" / rung.name
    runs = runs_in(folder, rung.name) if folder.is_dir() else []
    return Results(rung.name, tuple(runs), study)


# -- budget ----------------------------------------------------------------------------------------

def plans(request: Request, planned: Sequence[PlannedRung]) -> list[PlannedRung]:
    """The rungs with the runs of their studies. Raises BadInput for settings that no run can
    use."""
    found = []
    for rung in planned:
        until = request_of(request, rung)
        if (request.processes or 1) > 1 and not until.study.path.exists():
            # several processes take a few steps of every arm, and read the study from its file
            write_atomic(until.study.path, tomli_w.dumps(dict(until.study.table)))
        found.append(dataclasses.replace(rung, jobs=tuple(make_plan(until))))
    return found


def within(planned: Sequence[PlannedRung], hours: float | None, first: float = 0.0) -> int:
    """How many rungs, from the smallest on, fit into so many hours of training, of which what
    chooses the rates takes the `first` seconds. Raises BadInput where too few rungs are left to say
    anything."""
    needed = [(first + spent) / 3600
              for spent in itertools.accumulate(rung.seconds for rung in planned)]
    kept = sum(hours is None or spent <= hours for spent in needed)
    if kept < min(FEWEST, len(planned)):
        wanted = min(FEWEST, len(planned))
        raise BadInput(f"--budget {hours:g}: {wanted} rungs, the fewest that say anything, need "
                       f"{duration(3600 * needed[wanted - 1])}")
    return kept
