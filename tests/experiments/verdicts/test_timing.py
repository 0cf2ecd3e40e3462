"""Times that were measured on a busy machine are marked wherever they stand."""

import json

import pytest

from experiments.figures.panel import Panel
from experiments.records.runs import find_runs
from experiments.report.draw import report
from experiments.report.page import render
from experiments.verdicts.latex import to_latex
from experiments.verdicts.results import collect
from experiments.verdicts.summary import table
from experiments.verdicts.timing import timing
from tests.helpers.synthetic import write_study


@pytest.fixture
def losses(tmp_path):
    return write_study(tmp_path, {"baseline": 0, "rope": -0.1, "swiglu": -0.2}, study="mine",
                       steps=50)


def slowed(losses, arm):
    path = losses / "mine" / f"{arm}.s1.json"
    record = json.loads(path.read_text())
    record["result"]["tokens_per_second"] /= 2
    path.write_text(json.dumps(record))
    (results,) = collect(find_runs(losses))
    return results


def test_undisturbed_times_carry_no_mark(losses):
    (results,) = collect(find_runs(losses))
    assert timing(results).arms == {} and timing(results).lines() == timing(results).summary() == []
    shown = [table(results), to_latex(results), render(Panel(results)), *report(results)]
    assert not any("busy" in text for text in shown)


def test_one_arms_busy_times_are_marked_at_that_arm(losses):
    results = slowed(losses, "rope")
    assert timing(results).busy("rope") and not timing(results).busy("swiglu")
    rope, swiglu = (next(line for line in table(results).splitlines()
                         if line.startswith(f"| {arm} ")) for arm in ("rope", "swiglu"))
    assert rope.endswith("× (busy machine) |") and "busy" not in swiglu
    assert to_latex(results).count("busy machine") == 1
    page = render(Panel(results)).partition('id="exports"')[0]
    assert page.count("(busy machine)") == 3       # seconds per step, tokens/s, at equal time
    assert "(seconds), busy machine" in page       # the time axis of the curves
    assert any(line.startswith("times were measured on a busy machine: seeds of rope differ")
               for line in report(results))


def test_where_the_baseline_was_disturbed_the_column_is_marked_once(losses):
    results = slowed(losses, "baseline")
    assert timing(results).busy("swiglu") and "busy" not in table(results).splitlines()[3]
    assert "| step time, busy machine |" in table(results)
    assert "Seconds per step, busy machine" in render(Panel(results))
