"""summary.tex: every text of it is escaped, and its rows are those of the table."""

import re

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
