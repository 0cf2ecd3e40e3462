"""report.html: what it says; and that it works in a real browser, on a phone, without scripts and
with hostile names."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plotter
from experiments.figures import style
from experiments.figures.panel import Panel
from experiments.records.runs import find_runs
from experiments.report import charts, colors, notices
from experiments.report.answer import lead
from experiments.report.charts import charts as drawn_charts
from experiments.report.forest import scale
from experiments.report.page import render
from experiments.verdicts.latex import to_latex
from experiments.verdicts.results import collect
from experiments.verdicts.stats import tost_interval
from experiments.verdicts.summary import table
from experiments.verdicts.verdict import signed
from tests.helpers.browser import chromium  # noqa: F401 (a fixture)
from tests.helpers.synthetic import EFFECTS, write_run, write_study, write_two_columns

HOSTILE = ("<script>window.pwned = 1</script></script><img src=x onerror='window.pwned=1'>"
           + "\"'`{{7*7}}&amp; "
           "\u00ad\u2028 \u202e \u6a21\u578b")
FILE_NAME = """x'"><b onmouseover=alert(1)>é 模型"""


def results_of(losses: Path, study_file=None):
    (results,) = collect(find_runs(losses), study_file)
    return results


def page_of(losses: Path, study_file=None) -> str:
    return render(Panel(results_of(losses, study_file)), losses)


@pytest.fixture(scope="module")
def seven(tmp_path_factory) -> Path:
    """The report.html of a whole study."""
    root = tmp_path_factory.mktemp("report")
    write_study(root / "losses", seeds=(0, 1, 2, 3))
    path = root / "report.html"
    path.write_text(page_of(root / "losses"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def forty(tmp_path_factory) -> Path:
    """The report.html of a study of 40 arms."""
    root = tmp_path_factory.mktemp("forty")
    effects = {"baseline": 0.0} | {f"a_rather_long_name_{i}": 0.001 * (i - 19) for i in range(39)}
    write_study(root / "losses", effects, study="many", seeds=(0, 1), steps=50)
    path = root / "report.html"
    path.write_text(page_of(root / "losses"), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, seven):  # noqa: F811
    """opened(path, **context): the page in a browser that notes errors and requests. It is closed
    after the test."""
    contexts = []

    def open_(path=seven, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.noted = []
        page.on("console", lambda message: page.noted.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.noted.append(f"error: {error}"))
        page.on("request", lambda request: page.noted.append(f"request: {request.url}")
                if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page
    yield open_
    for context in contexts:
        context.close()


# --- what it says ---

def test_the_command_writes_one_file_that_holds_everything(tmp_path, capsys):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, steps=100)
    assert plotter.main([str(tmp_path / "losses"), "--html"]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (tmp_path / "visualizations" / "seven" / "report.html").read_text(encoding="utf-8")
    assert len(text) < 3e6
    # the page refers to nothing but its own anchors
    assert not re.findall(r"""(?:src|href)="(?!#)|@import|url\(""", text)
    for what in ("Hypothesis", "better", "What each arm changes", "no layer sees a later position",
                 "796,621",
                 "2.13.0+cpu", "python lab.py train --study seven --arm rope --seed 2"):
        assert what in text


def test_a_study_of_fifty_arms_stays_below_three_megabytes(tmp_path):
    effects = {"baseline": 0.0} | {f"arm{i}": 0.001 * i for i in range(49)}
    assert len(page_of(write_study(tmp_path, effects, seeds=(0, 1), steps=300)).encode()) < 3e6


def test_two_column_files_give_a_page_that_says_undecided_and_why(tmp_path):
    text = page_of(write_two_columns(tmp_path / "losses", EFFECTS))
    shown, _, _ = text.partition('id="exports"')
    assert shown.count("one unpaired run per arm") == 6
    assert "Files that name no seed cannot be paired" in text and "Curves without a record" in text


def test_the_same_runs_give_the_same_page(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, seeds=(0, 1), steps=50)
    assert page_of(tmp_path) == page_of(tmp_path)


CONFIG = {"model": {"n_layer": 4, "n_embd": 64, "n_head": 2, "block_size": 128},
          "trainer": {"batch_size": 16, "accumulation_steps": 2, "max_iters": 7000,
                      "learning_rate": 0.002, "lr_schedule": "cosine", "warmup_steps": 0.1,
                      "optimizer": "adamw"}}


def test_packages_are_names_with_versions_on_the_page(tmp_path):
    environment = {"python": "3.11.7", "packages": {"torch": "2.13.0", "rich": "15.0.0"}}
    write_run(tmp_path, "baseline", 0, steps=50, environment=environment)
    assert "torch 2.13.0, rich 15.0.0" in page_of(tmp_path)


def test_the_base_configuration_and_all_that_an_arm_changes_stand_before_the_verdicts(tmp_path):
    changes = {"model.norm": ["layernorm", "rmsnorm"], "trainer.warmup_steps": [0, 100],
               "model.mlp_hidden": [None, 272]}
    write_run(tmp_path, "baseline", 0, steps=50, config=CONFIG, changes={})
    write_run(tmp_path, "rope", 0, steps=50, config=CONFIG, changes=changes)
    text = page_of(tmp_path)
    top, _, rest = text.partition('<section id="answer">')
    told = dict(re.findall(r"<dt>(.*?)</dt> <dd>(.*?)</dd>", top))
    assert told == {
        "Layers": "4", "Width": "64", "Heads": "2", "Context": "128", "Tokenizer": "byte",
        "Parameters": "232,960", "Batch": "2 × 16 rows of 128 tokens", "Iterations": "7,000",
        "Tokens": "204,800", "Optimizer": "adamw", "Learning rate": "0.002",
        "Schedule": "cosine, warm-up over 10 % of the run", "Data": "9,303,685 tokens",
        "Preset": "laptop"}
    named = CONFIG | {"model": {"model_type": "gpt-nano", "n_layer": None, "block_size": 128}}
    write_run(tmp_path / "named", "baseline", 0, steps=50, config=named, changes={})
    sized = dict(re.findall(r"<dt>(.*?)</dt> <dd>(.*?)</dd>", page_of(tmp_path / "named")))
    assert {key: sized[key] for key in ("Layers", "Width", "Heads", "Model")} == {
        "Layers": "3", "Width": "48", "Heads": "3", "Model": "gpt-nano"}
    row, _, _ = rest.partition("</table>")
    for line in ("norm: layernorm → rmsnorm", "warmup_steps: 0 → 100",
                 "mlp_hidden: not set → 272"):
        assert f"<span>{line}</span>" in row


def test_each_arm_has_a_folded_sample_of_one_prompt_and_seed(tmp_path):
    drawn = {"prompt": "def ", "tokens": 9, "temperature": 0.8, "top_k": 50}
    for arm, prompt in (("baseline", "def "), ("rope", "def "), ("swiglu", "class ")):
        for seed in (0, 1):
            write_run(tmp_path, arm, seed, steps=50, sample=drawn | {
                "prompt": prompt, "seed": seed, "text": f"{prompt}{arm}{seed}\u202e<i>"})
    write_run(tmp_path, "cosine", 0, steps=50)
    text = page_of(tmp_path)
    section = text.partition('<section id="samples">')[2].partition("</section>")[0]
    how, _, folded = section.partition("<details><summary>4 samples</summary>")
    assert "weights of seed 0" in how and "prompt &#39;def &#39;" in how
    assert "def rope0\ufffd&lt;i&gt;" in folded and "rope1" not in folded
    assert "Drawn otherwise: prompt &#39;class &#39;" in folded
    assert "Its record holds no sample." in folded
    write_study(tmp_path / "old", {"baseline": 0, "rope": 0}, study=None, steps=50, seeds=(0,))
    assert "No record holds a sample of text" in page_of(tmp_path / "old")


def test_the_interval_of_equivalence_is_in_the_table_and_the_caption_names_only_what_is_drawn(
        tmp_path):
    write_study(tmp_path / "a", {"baseline": 0, "rope": -0.3}, study=None, seeds=range(5), steps=50)
    write_study(tmp_path / "b", {"baseline": 0, "rope": 0.0}, study=None, seeds=range(5), steps=50,
                noise=0.001)
    plain, equivalent = page_of(tmp_path / "a"), page_of(tmp_path / "b")
    assert "thick" not in plain and "judged together" not in plain
    assert 'class="inner"' not in plain
    verdict = results_of(tmp_path / "b").verdicts["rope"]
    low, high = tost_interval(verdict)
    assert verdict.word == "equivalent" and -0.01 < low < high < 0.01
    assert f"90 % CI [{signed(low)}, {signed(high)}] inside ±0.01" in equivalent
    assert "The thick part of a bar" in equivalent and 'class="inner"' in equivalent


# --- warnings ---

def told(losses: Path, study_file=None) -> dict[str, str]:
    return {notice.title: " | ".join(notice.details) for notice
            in notices.notices(results_of(losses, study_file))}


def test_a_clean_study_has_no_warnings(tmp_path):
    study = tmp_path / "mine.toml"
    study.write_text("seeds = [0, 1, 2]\n[arms.baseline]\n[arms.rope]\n")
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, study="mine", steps=50)
    assert told(tmp_path / "losses", study) == {}


@pytest.mark.parametrize(("part", "said"), [
    ({"status": "diverged", "message": "loss nan"}, "1 run is diverged, not done"),
    ({"code": {"commit": "f" * 40, "dirty": True}}, "The code had uncommitted changes"),
    ({"code": {"commit": "f" * 40, "dirty": False}}, "Runs used different versions of the code"),
    ({"environment": {"torch": "2.11.0"}}, "Runs were made in different environments"),
    ({"data": {"hash": "other"}}, "Runs used different data"),
    ({"config": {"model": {"n_layer": 5}}}, "Runs of one arm had different settings"),
    ({"study_hash": "0" * 12}, "The study's declaration was not found"),
    ({"audit": {"passed": False, "checks": {"a target is the next token": "no"}}},
     "The audit failed"),
    ({"start": "2026-03-01T00:05:00+00:00"}, "Timings are unreliable"),
    ({"audit": None}, "Runs without an audit"),
    ({"result": {"val_loss": 5.0, "tokens_per_second": 9.0}}, "Timings are unreliable"),
    ({"data": [], "audit": 3, "code": "x", "environment": None, "config": [], "process": 0,
      "start": 5, "changes": 1,
      "model": [], "command": {}, "result": "?", "message": [1], "end": {}},
      "Files with problems"),
])
def test_what_is_wrong_with_one_run_is_said(tmp_path, part, said):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, study="mine", steps=50)
    path = tmp_path / "mine" / "rope.s1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | part))
    assert any(said in title for title in told(tmp_path))
    page_of(tmp_path)   # the page is made whatever a record holds


def test_a_seed_far_from_the_others_is_named(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, study="mine", seeds=range(5), steps=50)
    path = tmp_path / "mine" / "rope.s3.json"
    record = json.loads(path.read_text())
    record["result"]["val_loss"] += 2.0
    path.write_text(json.dumps(record))
    assert "rope.s3: +" in told(tmp_path)["A seed ended far from the others"]


def test_a_hypothesis_changed_after_the_first_run_is_flagged(tmp_path):
    study = tmp_path / "mine.toml"
    study.write_text("seeds = [0, 1]\n[arms.baseline]\n[arms.rope]\n")
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, study="mine", seeds=(0, 1),
                steps=50)
    for path in (tmp_path / "losses" / "mine").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"study_hash": results_of(
            tmp_path / "losses", study).declared.hash}))
    assert told(tmp_path / "losses", study) == {}
    study.write_text(study.read_text().replace("seeds", 'hypothesis = "rope wins, as seen"\nseeds'))
    assert "The study's file was changed after its first run" in told(tmp_path / "losses", study)


def test_missing_runs_single_runs_and_an_absent_baseline_are_named(tmp_path):
    write_study(tmp_path, {"rope": -0.1}, study="seven", seeds=(0,), steps=50)
    found = told(tmp_path)
    assert "No run of the baseline baseline" in found
    assert "rope: seeds 1, 2" in found["Runs that the study declares are missing"]
    assert "rope" in found["One run per arm says nothing about the spread over seeds"]
    assert "no run of the baseline is here" in page_of(tmp_path)


def test_an_arm_that_cannot_be_compared_is_a_warning_and_no_page_calls_it_clean(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, study="mine", steps=50)
    for path in (tmp_path / "mine").glob("rope.*.json"):
        record = json.loads(path.read_text())
        record["config"]["trainer"]["batch_size"] = 32
        path.write_text(json.dumps(record))
    assert told(tmp_path)["Arms that cannot be compared with the baseline"].startswith(
        "rope: trainer.batch_size 16 (baseline) and 32")
    assert "Read with care:</strong> Arms that cannot be compared" in page_of(tmp_path)


def test_the_table_at_equal_budgets_says_which_arms_it_leaves_out_and_why(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1, "swiglu": 0}, study="mine", steps=50)
    assert "No row for " not in page_of(tmp_path)
    for path in (tmp_path / "mine").glob("rope.*.json"):
        record = json.loads(path.read_text())
        record["config"]["trainer"]["batch_size"] = 32
        path.write_text(json.dumps(record))
    section = page_of(tmp_path).partition('<section id="budgets">')[2].partition("</section>")[0]
    assert 'scope="row">swiglu' in section and 'scope="row">rope' not in section
    assert "No row for rope: trainer.batch_size 16 (baseline) and 32" in section


def test_the_last_end_is_the_latest_moment_and_not_the_last_text(tmp_path):
    ends = {"baseline": "2026-03-01T23:30:00-05:00", "rope": "2026-03-02T01:00:00+00:00"}
    for arm, end in ends.items():
        write_run(tmp_path, arm, 0, steps=50, end=end)
    assert "2026-03-02 04:30:00 UTC" in page_of(tmp_path)


def test_two_seeds_that_ended_far_apart_are_told(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1, "swiglu": 0}, study="mine", seeds=(0, 1),
                steps=50)
    path = tmp_path / "mine" / "rope.s1.json"
    record = json.loads(path.read_text())
    record["result"]["val_loss"] += 2.0
    path.write_text(json.dumps(record))
    assert told(tmp_path)["The few seeds of an arm ended far apart"].startswith(
        "rope: its 2 seeds ended ")
    row = page_of(tmp_path).partition('rowheader">rope</th>')[2].partition("</tr>")[0]
    assert "undecided" in row and "its 2 seeds ended" in row


# --- in a browser ---

def test_nothing_is_requested_and_nothing_goes_wrong(opened):
    page = opened()
    assert page.title() == page.inner_text("h1") + " · seven"
    assert page.noted == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_in_light_and_dark(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    least = page.evaluate("""() => Math.min(...[...document.querySelectorAll('body *')]
        .filter(each => each.childElementCount === 0)
        .filter(each => each.textContent.trim() && each.offsetParent)
        .map(each => parseFloat(getComputedStyle(each).fontSize)))""")
    assert least >= 12


@pytest.mark.parametrize("width", [390, 1280])
def test_the_scale_below_the_intervals_is_theirs(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    spans = page.evaluate("""() => ['.forest', '.axis'].map(each => {
        const box = document.querySelector(each).getBoundingClientRect();
        return [Math.round(box.left), Math.round(box.width)];
    })""")
    assert spans[0] == spans[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_reader_in_a_hurry_meets_answer_picture_table_and_warnings_in_this_order(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    tops = [page.locator(each).bounding_box()["y"] for each in (
        "h1", ".lead", ".base", ".picture", "table.verdicts", "#warnings", "#setup", "#curves",
        "#samples")]
    assert tops == sorted(tops)


def test_the_buttons_copy_the_table_as_markdown_and_as_latex(opened, seven):
    results = results_of(seven.parent / "losses")
    for refused in (False, True):
        page = opened()
        if refused:     # a browser that keeps pages from its clipboard still copies a selection
            page.evaluate("() => { navigator.clipboard.writeText = () => "
                          "Promise.reject(new Error()); }")
        page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), "
                      "{id: 'paste'}))")
        for name, text in (("Markdown", table(results)), ("LaTeX", to_latex(results))):
            page.get_by_role("button", name=name).click()
            page.get_by_text("Copied.", exact=True).wait_for()
            page.locator("#paste").fill("")
            page.locator("#paste").press("Control+V")
            assert page.locator("#paste").input_value() == text
            page.evaluate("document.getElementById('copied').textContent = ''")
    assert not opened(java_script_enabled=False).get_by_role("button").first.is_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_of_forty_arms_the_best_and_worst_show_first_and_all_on_demand(opened, forty, scripts):
    page = opened(forty, java_script_enabled=scripts, viewport={"width": 390, "height": 800})
    rows, keys = page.locator(".verdicts tbody tr:visible"), page.locator(".key:visible")
    assert rows.count() == 12 and page.locator(".prow:visible .forest").count() == 12
    assert keys.count() == 13 and page.locator(".view:visible .series:visible").count() == 13
    found = [float(text.replace("−", "-")) for text in page.locator(
        ".prow:visible .by").all_inner_texts()]
    assert found == sorted(found) and found[7] < 0 < found[8]
    page.get_by_label("Show all 39 arms").check()
    assert rows.count() == 39 and keys.count() == 40
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    page.get_by_label("Show all 39 arms").evaluate("each => each.checked = false")
    assert rows.count() == 39


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_scrolls_shows_it_by_a_shadow_at_its_edge(opened, scheme):
    page = opened(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    box = page.locator("#cost .wide")
    assert box.evaluate("each => each.scrollWidth > each.clientWidth + 50")

    def edges():
        picture = Image.open(io.BytesIO(box.screenshot())).convert("L")
        across = picture.width - 1
        return [picture.getpixel((x, picture.height // 2 + 3)) for x in (0, across // 2, across)]
    # the sticky names cover the shadow on the left, so only the right edge is looked at
    start = edges()[2]
    box.evaluate("each => { each.scrollLeft = 1e4 }")
    assert abs(start - edges()[2]) > 15


def contrasts(page, selector: str) -> list[float]:
    """The WCAG contrast of the text of each matching element with its background."""
    pairs = page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].map(each => {
        let behind = each;
        const painted = (one) => getComputedStyle(one).backgroundColor;
        while (behind && painted(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        return [getComputedStyle(each).color, painted(behind || document.body)];
    })""",
        selector,
    )

    def to_hex(text):
        return "#" + "".join(f"{int(float(v)):02x}" for v in re.findall(r"[\d.]+", text)[:3])

    return [colors.contrast(to_hex(text), to_hex(behind)) for text, behind in pairs]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, scheme):
    found = contrasts(opened(color_scheme=scheme),
                      "p, a, th, td, dt, dd, label, legend, .word, .tag, caption, summary, li")
    assert len(found) > 100 and min(found) >= 4.5


def test_lines_have_enough_contrast_on_either_page():
    arms = style.arm_styles(EFFECTS, "baseline", list(EFFECTS))
    for each in arms.values():
        light, dark = colors.on_page(each)
        assert colors.contrast(light, colors.LIGHT) >= 3 and colors.contrast(dark, colors.DARK) >= 3


def shown_values(page) -> dict[str, str]:
    names = page.locator(".key .name").all_inner_texts()
    return dict(zip(names, page.locator(".key .value").all_inner_texts(), strict=True))


def test_pointing_at_the_curves_reads_their_values(opened):
    page = opened(viewport={"width": 1280, "height": 900})
    at_end = shown_values(page)
    assert at_end.keys() == EFFECTS.keys()
    plot = page.locator(".view:visible .plot")
    plot.hover(position={"x": 5, "y": 50})
    assert page.locator(".keys .where").inner_text() == "at 60 iterations"
    assert float(shown_values(page)["baseline"]) > float(at_end["baseline"]) + 0.5
    assert page.locator(".view:visible .cross").is_visible()
    page.mouse.move(5, 5)
    assert shown_values(page) == at_end


def test_arrow_keys_read_the_values_aloud(opened):
    page = opened()
    page.locator(".view:visible .plot").focus()
    for key, place in (("End", "600 iterations"), ("ArrowLeft", "540 iterations"),
                       ("Home", "60 iterations")):
        page.keyboard.press(key)
        assert page.locator("#spoken").inner_text().startswith(f"{place}: all_modifications ")
    page.keyboard.press("Escape")
    assert not page.locator(".view:visible .cross").is_visible()


def test_an_arm_is_switched_off_and_on_from_the_keyboard(opened):
    page = opened()
    line = page.locator(".view:visible .series.a1")
    page.locator("#k1").focus()
    page.keyboard.press("Space")
    assert not line.is_visible() and shown_values(page)["rope"] == ""
    page.keyboard.press("Space")
    assert line.is_visible()
    page.get_by_role("button", name="No arm").click()
    assert page.locator(".view:visible .series:visible").count() == 0


def test_every_view_can_be_chosen_and_shows_alone(opened):
    page = opened()
    for metric in ("val_loss", "loss", "difference"):
        for over in ("iteration", "seconds", "flops"):
            page.locator(f"#m-{metric}").check()
            page.locator(f"#o-{over}").check()
            assert page.locator(".view:visible").get_attribute("id") == f"v-{metric}-{over}"
            assert page.locator(".view:visible .series").count() == (
                6 if metric == "difference" else 7)
    assert page.noted == []


def test_without_scripts_the_page_shows_and_switches_the_same(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".verdicts tbody th").count() == 6
    assert page.locator(".view:visible").get_attribute("id") == "v-val_loss-iteration"
    page.locator("#m-difference").check()
    assert page.locator(".view:visible").get_attribute("id") == "v-difference-iteration"
    page.locator("#k2").uncheck()
    assert not page.locator(".view:visible .series.a2").is_visible()
    page.locator("summary", has_text="runs and their commands").click()
    assert page.get_by_text("python lab.py train --study seven --arm rope --seed 2").is_visible()


def test_focus_is_seen_and_the_first_tab_skips_to_the_answer(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_prints(opened):
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator(".view:visible").count() == 1
    assert page.pdf().startswith(b"%PDF")


def test_tables_headings_and_landmarks_say_what_they_are(opened):
    page = opened()
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    assert page.locator("table").count() == page.locator("table > caption").count() > 5
    assert page.locator("th:not([scope])").count() == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    for anchor in page.locator("nav a").all():
        assert anchor.get_attribute("href").removeprefix("#") in ids


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A study in which every text that the page can show is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    study = root / "evil.toml"
    study.write_text(f"question = {json.dumps(HOSTILE)}\nhypothesis = {json.dumps(HOSTILE)}\nseeds "
                     f"= [0, 1, 2]\nexpect = {{rope = \"better\"}}\n"
                     f"[arms.baseline]\n[arms.rope]\n")
    more = {"message": HOSTILE, "command": HOSTILE,
            "changes": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
            "environment": {HOSTILE: HOSTILE, "python": HOSTILE},
            "code": {"commit": HOSTILE, "version": HOSTILE},
            "data": {"hash": HOSTILE, HOSTILE: [HOSTILE]},
            "audit": {"passed": False, "checks": {HOSTILE: HOSTILE}},
            "process": {"host": HOSTILE}, "study_hash": HOSTILE, "start": HOSTILE, "end": HOSTILE,
            "model": {"parameters": HOSTILE, "flops_per_token": HOSTILE},
            "sample": {"prompt": HOSTILE, "text": HOSTILE, "seed": 0, "tokens": HOSTILE},
            "preset": HOSTILE}
    for seed in range(3):
        write_run(root / "losses", "baseline", seed, 0, study="evil", steps=50)
        write_run(root / "losses", FILE_NAME, seed, -0.1, study="evil", steps=50, slot=1, **more)
    write_run(root / "losses", FILE_NAME, 3, -0.1, study="evil", steps=50, slot=1, **more,
              status="failed")
    path = root / "report.html"
    path.write_text(page_of(root / "losses", study), encoding="utf-8")
    return path


@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_names_stay_text(opened, hostile, scripts):
    page = opened(hostile, java_script_enabled=scripts, viewport={"width": 390, "height": 800})
    assert page.noted == []
    assert page.locator("h1").text_content() == HOSTILE
    assert FILE_NAME in page.locator(".verdicts tbody th").all_inner_texts()
    assert page.locator("img, b, script:not([id])").count() == 1   # only the page's own script
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if scripts:
        assert page.evaluate("window.pwned") is None
        assert FILE_NAME in shown_values(page)
        page.locator(".view:visible .plot").focus()
        page.keyboard.press("End")
        assert FILE_NAME in page.locator("#spoken").text_content()


# --- geometry ---

def test_thinning_keeps_the_ends_and_never_invents_points():
    assert charts.thinned(5, 10).tolist() == [0, 1, 2, 3, 4]
    kept = charts.thinned(1000, 50)
    assert len(kept) == 50 and kept[0] == 0 and kept[-1] == 999
    assert charts.thinned(0, 50).tolist() == []


def test_a_study_of_one_log_point_has_a_page(tmp_path):
    (tmp_path / "rope.csv").write_text("iteration,loss\n10,5.5\n")
    assert "5.5" in page_of(tmp_path)


def test_the_answer_says_which_words_stand_at_every_arms_own_best_rate(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('seeds = "0-4"\nlr = [4e-3]\n[arms.baseline]\n[arms.rope]\n[arms.swiglu]\n')
    arms = {"baseline": 0.0, "baseline_lr0.004": -0.2, "rope": -0.2, "rope_lr0.004": -0.4,
            "swiglu": -0.2,
            "swiglu_lr0.004": 0.0}
    write_study(tmp_path / "losses", arms, study="mine", seeds=range(5), steps=50)
    text = lead(results_of(tmp_path / "losses", file))
    assert text.startswith("Compared with baseline, rope and swiglu are better; at every arm's own "
                           "best learning rate, rope is better; ")
    assert text.count(".") == 1    # one sentence


def test_small_effects_and_close_curves_are_seen_on_the_page_beside_a_dwarf(tmp_path, opened):
    write_study(tmp_path / "losses", {"baseline": 0, "a": 0.004, "b": -0.006, "c": 0.003, "d": 9.0},
                study="mine", seeds=(0, 1, 2), steps=200, noise=0.0005)
    (results,) = collect(find_runs(tmp_path / "losses"))
    on = scale(results)
    places = [on.at(value) for value in (-0.006, 0, 0.003, results.margin, 9.0)]
    assert np.diff(places).min() > 2 and places[0] > 0 and places[-1] < 100     # per cent
    assert f"The scale is {on.bends.said}." in page_of(tmp_path / "losses")
    drawn = {chart.key: chart for chart in drawn_charts(Panel(results))}
    assert "logarithmic beyond" in drawn["val_loss-iteration"].y_label
    ends = sorted(line.down[-1] for line in drawn["difference-iteration"].lines)
    assert ends[0] > 0 and ends[-1] < 100 and np.diff(ends).min() > 1
    (tmp_path / "page.html").write_text(page_of(tmp_path / "losses"), encoding="utf-8")
    page = opened(tmp_path / "page.html")
    page.locator("#v-val_loss-iteration .plot").press("End")
    tops = dict(page.evaluate("""[...document.querySelectorAll("#v-val_loss-iteration .cross i")]
        .map((dot) => [dot.className, parseFloat(dot.style.top)])"""))
    for line in drawn["val_loss-iteration"].lines:
        assert tops[f"a{line.number}"] == pytest.approx(line.down[-1], abs=0.1)


def test_notes_alone_are_not_headed_as_warnings(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, study="mine", steps=50)
    assert "<h2>No warnings</h2>" in page_of(tmp_path)
    write_run(tmp_path, "rope", 0, -0.1, study="mine", steps=50, slot=1,
              code={"commit": "f" * 40, "dirty": True})
    assert "<h2>Notes</h2>" in page_of(tmp_path) and "Warnings" not in page_of(tmp_path)
    write_run(tmp_path, "rope", 3, study="mine", steps=50, status="failed", slot=1)
    assert "<h2>Warnings</h2>" in page_of(tmp_path)
def test_the_page_of_many_arms_is_searched_and_stays_small(tmp_path, monkeypatch):
    from experiments.report import page, tables
    monkeypatch.setattr(page, "PICTURED", 30)
    monkeypatch.setattr(tables, "LISTED", 50)
    arms = {"baseline": 0.0} | {f"arm_{k:02d}": 0.01 * (k - 20) for k in range(54)}
    text = page_of(write_study(tmp_path, arms, study="many", seeds=(0, 1), steps=40, noise=1e-4))
    assert text.count('type="search"') == 1
    assert text.count('<tr role="row"') == 1 + 54               # every arm is in the table ...
    assert text.count('class="pname"') == 8 + 4     # ... and 12 in the picture
    assert text.count('class="key a') == 1 + 8 + 4              # and among the curves
    assert 'data-copy="' not in text and "summary.tex" in text
    assert text.count("--arm arm_20 --seed") == 1               # one command stands for all seeds
    assert "the arm's other seeds have the same command" in text.replace("&#39;", "'")


def test_the_search_finds_hidden_arms(tmp_path, chromium):  # noqa: F811
    arms = {"baseline": 0.0} | {f"arm_{k:02d}": 0.01 * (k - 20) for k in range(54)}
    path = tmp_path / "report.html"
    losses = write_study(tmp_path, arms, study="many", seeds=(0, 1), steps=40, noise=1e-4)
    path.write_text(page_of(losses), encoding="utf-8")
    view = chromium.new_page()
    view.goto(path.as_uri())
    shown = ".verdicts tbody tr:visible"
    assert view.locator(shown).count() == 8 + 4
    view.fill("#find", "ARM_2")
    assert [row.split()[0] for row in view.locator(shown).all_inner_texts()] == [
        f"arm_{k}" for k in range(20, 30)]
    view.fill("#find", "")
    assert view.locator(shown).count() == 8 + 4
