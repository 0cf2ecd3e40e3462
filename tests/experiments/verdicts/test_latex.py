"""summary.tex: every text of it is escaped, and its rows are those of the table."""

import os
import re
import shutil
import subprocess

import pytest

from experiments.records.runs import find_runs
from experiments.report.draw import write_tables
from experiments.verdicts.latex import _letter, escaped, to_latex
from experiments.verdicts.results import collect
from tests.helpers.synthetic import write_run, write_study

HOSTILE = "\\input{x} 5 % & $y$ #1 a_b {c} ~ ^ <i> | \" [d]\n\n\x07 −0.1 é 模型"


def unescaped_specials(text: str) -> list[str]:
    """Every character of LaTeX's own that stands without a backslash, known commands removed."""
    known = re.sub(r"\\text(?:backslash|ascii(?:tilde|circum)|less|greater|bar)\{\}"
                   r"|\{\[\}|\{\]\}|\$(?:-|\\[a-z]+)\$", "", text)
    return re.findall(r"(?<!\\)[&%$#_{}~^]|\\(?![&%$#_{}])", known)


def test_every_special_character_is_escaped_and_no_line_ends_inside_a_cell():
    text = escaped(HOSTILE)
    assert unescaped_specials(text) == [] and unescaped_specials(r"a_b \input{x}") != []
    assert "\n" not in text and "\x07" not in text and text.endswith("$-$0.1 é 模型")
    assert text.startswith(r"\textbackslash{}input\{x\} 5 \% \& \$y\$ \#1 a\_b \{c\}")
    assert escaped('"') == "''"            # \\textquotedbl needs another font encoding
    assert escaped("[x]*") == "{[}x{]}{*}"     # after \\ a bare bracket would be read as a length


def test_summary_tex_stands_beside_summary_md_with_one_row_an_arm(tmp_path):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.2}, study="mine", steps=50)
    for seed in range(3):
        write_run(tmp_path / "losses", "[a]&b_50%", seed, 0.0, study="mine", steps=50, slot=2)
    (results,) = collect(find_runs(tmp_path / "losses"))
    assert "summary.tex" in [path.name for path in write_tables(results, tmp_path)]
    text = (tmp_path / "summary.tex").read_text(encoding="utf-8")
    assert text == to_latex(results)
    body = text.split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert len(body) == len(results.arms) == 3
    head = text.split("\\toprule\n")[1].splitlines()[0]
    for line in [head, *body]:
        assert line.endswith(r"\\") and len(re.findall(r"(?<!\\)&", line)) == 8
    assert body[0].startswith("baseline & baseline & ")
    assert any(line.startswith(r"{[}a{]}\&b\_50\% & ") for line in body)
    rope = results.verdicts["rope"]
    (line,) = [line for line in body if line.startswith("rope")]
    assert rf"\textbf{{{rope.word}}}" in line and f"$-${abs(rope.difference):.4f}" in line
    assert [_letter(n) for n in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]


def test_notes_are_marked_at_the_word_that_they_weaken(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": 0.001}, study="mine", steps=50, seeds=(0, 1))
    write_run(tmp_path, "rope", 2, study="mine", steps=50, status="failed", slot=1)
    write_run(tmp_path, "baseline", 2, study="mine", steps=50)
    (results,) = collect(find_runs(tmp_path))
    text = to_latex(results)
    assert re.search(r"^rope & \S+\$\^\{a\}\$ & ", text, re.M)
    (note,) = [line for line in text.splitlines() if line.startswith(r"\par\footnotesize $^{a}$")]
    assert "seed 2 failed" in note


PAPER = r"""\documentclass{article}\usepackage{booktabs,graphicx}
\begin{document}\input{summary.tex}\end{document}"""


@pytest.mark.skipif(shutil.which("pdflatex") is None and "CI" not in os.environ,
                    reason="no pdflatex is installed")
def test_a_paper_with_the_table_compiles_and_the_table_fits_the_page(tmp_path):
    arms = ["a_b%c&d", "[x]#1", "~tilde^", "{brace}$x$", "back\\slash", '<i>|"q"', "*star",
            "a_very_long_name_of_an_arm_that_goes_on_and_on"]
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.2}, study="100 % & #1_~", steps=50)
    for slot, arm in enumerate(arms):
        for seed in range(3):       # all at once on one machine, so that times are marked as well
            write_run(tmp_path / "losses", arm, seed, 0.001 * slot, study="100 % & #1_~", steps=50,
                      slot=slot + 2, start="2026-03-01T00:00:00+00:00",
                      end="2026-03-01T01:00:00+00:00", status="failed" if seed > slot else "done")
    (results,) = collect(find_runs(tmp_path / "losses"))
    (tmp_path / "summary.tex").write_text(to_latex(results), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(PAPER)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
                          cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (tmp_path / "paper.pdf").is_file()
    assert r"^{\dagger}" in to_latex(results)
