"""commands/judge.py, plotter.py on logs of other programs, and the interface from Python."""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import experiments.verdicts as v
import lab
import plotter
from commands import judge
from mingpt.utils import BadInput
from tests.helpers import foreign as write

ROOT = Path(lab.__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Ten nanoGPT logs, as docs/judge.md has them."""
    folder = tmp_path_factory.mktemp("logs") / "runs"
    for seed in range(5):
        end = 3.2 + 0.003 * (seed - 2) ** 2
        write.nanogpt(folder / f"baseline.s{seed}.txt", write.curve(end, seed))
        write.nanogpt(folder / f"rope.s{seed}.txt", write.curve(end - 0.05, seed + 50))
    return folder


def test_the_grouping_stands_before_the_verdicts(runs, capsys):
    assert lab.main(["judge", str(runs), "--target", "3.19"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^rope +5 +0, 1, 2, 3, 4 +paired +1,000 +rope.s0.txt.* nanoGPT$", said, re.M)
    assert re.search(r"^  rope +better ", said, re.M)
    assert re.search(r"^  rope +reached +n = 5", said, re.M)
    assert said.index("Compared") < said.index("better") < said.index("Target 3.19")


def test_json_alone_is_printed_and_a_verdict_may_fail_the_command(runs, capsys):
    assert lab.main(["judge", str(runs), "--json", "--fail-if", "worse"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"]["rope"]["word"] == "better"
    assert found["arms"][1] | {"from": 0} == {
        "arm": "rope", "runs": 5, "from": 0, "seeds": [0, 1, 2, 3, 4], "paired": True,
        "last_step": 1000, "step": 1000, "format": ["nanoGPT"]}
    assert lab.main(["judge", str(runs), "--json", "--baseline", "rope", "--fail-if",
                     "worse,undecided"]) == 1


def test_the_page_says_what_is_unknown_and_shows_no_cost_that_was_not_logged(runs, tmp_path,
                                                                             capsys):
    folder = tmp_path / "tables"
    for path in runs.glob("*.txt"):            # the same runs as CSVs: losses only
        rows = [re.findall(r"step (\d+): .* val loss ([\d.]+)", line)
                for line in path.read_text().splitlines()]
        folder.mkdir(exist_ok=True)
        (folder / f"{path.stem}.csv").write_text("step,val_loss\n" + "".join(
            f"{each[0][0]},{each[0][1]}\n" for each in rows if each))
    assert lab.main(["judge", str(folder), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("Runs from elsewhere", "How the runs were grouped", "no audit was made",
                 "parameters, FLOPs, time and memory were not logged"):
        assert text in page
    assert 'id="cost"' not in page and "their commands" in page
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "step time" not in summary and "parameters" not in summary
    assert (tmp_path / "out" / "effects.png").is_file()


def test_plotter_draws_them_too(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert plotter.main([str(runs), "--html"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^  rope +better ", said, re.M)
    assert {"report.html", "training_comparison.png", "summary.csv"} <= {
        path.name for path in (tmp_path / "visualizations" / "runs").iterdir()}
    assert plotter.main([str(runs), "--keep", "x"]) == 2
    assert "needs records" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere"], "there is no nowhere"),
    (["empty.txt"], "an empty file"),
    (["other.txt"], "no log of a known program"),
    (["table.csv", "--columns", "step=a,val_loss=c"], "no column 'c'"),
    (["runs", "--fail-if", "wors"], "no verdict 'wors': did you mean 'worse'?"),
    (["runs", "--arm", "x"], "write --arm NAME=GLOB"),
    (["runs", "--margin", "0"], "margin must be above 0"),
    (["runs", "--at", "77"], "no arm has a validation loss at that step; the nearest is 100"),
    (["runs", "--columns", "val_loss=x"], "name both step and val_loss"),
])
def test_bad_input_is_one_line_and_exit_code_2(runs, tmp_path, monkeypatch, capsys, arguments,
                                               said):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "other.txt").write_text("epoch 1\nepoch 2\n")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lab.py", "judge", *arguments])
    assert lab.door() == 2
    out, error = capsys.readouterr()
    assert out == "" and said in error and len(error.splitlines()) == 1


def test_the_command_ablate_is_lab_py_from_any_folder(runs, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["ablate"].partition(":")
    assert module in project["tool"]["setuptools"]["py-modules"]
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import {function}; "
            f"sys.argv = ['ablate', 'judge', {str(runs)!r}]; sys.exit({function}())")
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                           text=True)
    assert (found.returncode, found.stderr) == (0, "") and "better" in found.stdout


# --- from Python ---

def test_values_are_compared_by_seed_where_they_share_seeds():
    arm, base = {0: 3.2114, 1: 3.1902, 2: 3.2231}, {0: 3.2511, 1: 3.2297, 2: 3.2639}
    assert v.compare(arm, base, margin=0.01).paired
    assert v.compare(arm, base, margin=0.01).word == "better"
    assert not v.compare(list(arm.values()), list(base.values()), margin=0.01).paired
    assert not v.compare(arm, {7: 3.2, 8: 3.3}, margin=0.01).paired
    with pytest.raises(BadInput, match="margin"):
        v.compare(arm, base, margin=-1)
    with pytest.raises(BadInput, match="None is no number"):
        v.compare([3.2, None], base, margin=0.01)


def test_values_of_pandas_are_judged_as_dicts_and_lists_are():
    arm, base = {0: 3.2114, 1: 3.1902, 2: 3.2231}, {0: 3.2511, 1: 3.2297, 2: 3.2639}
    as_dicts = v.compare(arm, base, margin=0.01)
    table = pd.DataFrame({"baseline": base, "rope": arm}).rename_axis("seed")
    by_seed = v.compare(table["rope"], table["baseline"], margin=0.01)
    assert by_seed.paired and by_seed.line() == as_dicts.line()
    numbered = [pd.Series(list(each.values())) for each in (arm, base)]     # 0, 1, 2 by pandas
    assert not v.compare(*numbered, margin=0.01).paired
    together = {"baseline": base, "rope": arm, "other": [3.2, 3.21, 3.23]}
    found = v.verdicts(together, "baseline", margin=0.01)
    assert found["rope"].paired and not found["other"].paired
    judged = v.verdicts(table, "baseline", margin=0.01)["rope"]
    assert judged.paired and judged.difference == as_dicts.difference


def test_logs_are_one_table(runs):
    table = v.read(runs)
    assert list(table.columns[:5]) == ["arm", "run", "seed", "format", "iteration"]
    last = table.dropna(subset=["val_loss"]).groupby(["arm", "seed"])["val_loss"].last()
    assert last["rope", 1] == pytest.approx(3.153, abs=0.01) and len(last) == 10


def test_the_commands_and_the_code_of_the_pages_run_as_written(runs, tmp_path):
    """docs/python.md's blocks run one after the other; docs/judge.md's commands are judge's."""
    page = (ROOT / "docs" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    found = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                            + code], cwd=runs.parent, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    commands = re.findall(r"^(?:ablate|python lab\.py) judge (.*?)(?:\s+#.*)?$",
                          (ROOT / "docs" / "judge.md").read_text(), re.M)
    assert len(commands) > 4
    parser = argparse.ArgumentParser()
    judge.add_arguments(parser)
    for command in commands:
        parser.parse_args(shlex.split(command))
