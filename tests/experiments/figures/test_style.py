"""Style: colours that colour-blind readers and grey prints tell apart, and fonts in the files."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from experiments.declare.study import load_study, shipped
from experiments.figures import FIGURES, Panel, draw, factorial, forest, scales, style
from experiments.records.runs import find_runs
from experiments.report.colors import contrast
from experiments.verdicts.results import collect
from experiments.verdicts.study_runs import known_arms
from tests.helpers.synthetic import EFFECTS, write_study

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SEEN_WITH = {
    "full colour vision": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]]}


def lab(color: str, matrix) -> np.ndarray:
    """CIELAB (3,) of a colour as it is seen with a kind of colour vision."""
    values = np.array([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                    [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one: str, other: str, matrix) -> float:
    """The distance of two colours (ΔE 1976); about 2.3 is the least that is seen side by side."""
    return float(np.linalg.norm(lab(one, matrix) - lab(other, matrix)))


@pytest.mark.parametrize("vision", SEEN_WITH)
def test_colours_stay_apart_for_every_kind_of_colour_vision(vision):
    matrix = SEEN_WITH[vision]
    assert min(apart(a, b, matrix) for a, b in combinations(style.PALETTE, 2)) > 17
    assert min(apart(a, b, matrix) for a, b in pairwise([*style.PALETTE, style.PALETTE[0]])) > 30
    fixed = (style.BASELINE, style.PALE)
    assert min(apart(a, b, matrix) for a in style.PALETTE for b in fixed) > 17


def test_no_arm_has_the_colour_of_a_fixed_element_and_all_are_seen_on_white():
    fixed = {style.BASELINE, style.PALE, style.MUTED, style.INK, forest.NOISE, scales.BAND,
             *(color for color, _ in factorial.ORDERS)}
    assert not fixed & set(style.PALETTE)
    assert min(contrast(color, "#ffffff") for color in style.PALETTE) >= 3


def test_a_grey_print_tells_the_arms_of_every_shipped_study_apart():
    for name in shipped():
        study, known = load_study(name), known_arms()
        styles = style.arm_styles(study.arms, study.baseline, known)
        arms = set(study.arms) - study.grid_arms     # points of a grid share their arm's figures
        assert len({(styles[arm].dash, styles[arm].marker) for arm in arms}) == len(arms), name
        assert len({(styles[arm].dash, styles[arm].color) for arm in arms}) == len(arms), name


def test_fonts_are_embedded_in_pdf_and_svg_and_the_text_of_an_svg_is_text(tmp_path):
    (results,) = collect(find_runs(write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1},
                                               seeds=(0, 1), steps=50)))
    for name, files in draw(Panel(results), tmp_path, ("pdf", "svg")):
        if isinstance(files, str):
            continue
        pdf, svg = (file.read_bytes() for file in files)
        fonts = re.findall(rb"@font-face{font-family:'DejaVu Sans';font-weight:(\w+);src:url\("
                           rb"data:font/woff;base64,([^)]+)\)", svg)
        assert {weight for weight, _ in fonts} == {b"bold", b"normal"}, name
        glyphs = [TTFont(BytesIO(b64decode(data))).getBestCmap() for _, data in fonts]
        assert all(len(set(map(chr, cmap)) & set("abcdeilnorst")) > 5 and len(cmap) < 120
                   for cmap in glyphs), name
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf, name
        words = " ".join(text.text or "" for text in ElementTree.fromstring(svg).iter(
            "{http://www.w3.org/2000/svg}text"))
        assert "rope" in words or name == "baseline", name


def test_a_title_says_what_the_figure_shows_and_not_what_the_study_asks(tmp_path):
    (results,) = collect(find_runs(write_study(tmp_path, EFFECTS, seeds=(0, 1), steps=50)))
    titles = {name: FIGURES[name](Panel(results)).texts[0].get_text() for name in FIGURES
              if name not in ("factorial_effects", "learning_rates")}
    assert len(set(titles.values())) == len(titles) and not any("?" in t for t in titles.values())
    assert titles["loss_against_flops"] == "Validation loss over training compute"
