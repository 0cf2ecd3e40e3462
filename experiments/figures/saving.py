"""
Write a figure atomically, with the same bytes for the same runs and with its fonts inside.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text

from mingpt.utils import write_atomic

FORMATS = ("png", "svg", "pdf")
STYLE = b'<style type="text/css">'     # where matplotlib's SVG keeps its rules


def save(figure: Figure, stem: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write STEM.png, STEM.svg or STEM.pdf for each format, atomically; return their paths. Dates
    are left out, so the same runs give the same file."""
    paths = []
    for kind in formats:
        buffer = io.BytesIO()
        undated = {"png": {"Software": None}, "svg": {"Date": None},
                   "pdf": {"CreationDate": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=undated)
        data = buffer.getvalue()
        if kind == "svg":
            data = data.replace(STYLE, STYLE + _fonts(figure).encode(), 1)
        # with_suffix would cut off the end of a name that contains a dot
        path = stem.with_name(f"{stem.name}.{kind}")
        write_atomic(path, data)
        paths.append(path)
    return paths


def _fonts(figure: Figure) -> str:
    """Return CSS that holds the glyphs of the figure's text. So the text of an SVG stays text, and
    it has the width for which it was placed on a machine without the font as well."""
    used: dict[str, str] = {}
    for text in figure.findobj(Text):
        weight = "bold" if text.get_weight() in ("bold", 700) else "normal"
        used[weight] = used.get(weight, "") + text.get_text()
    family = rcParams["font.sans-serif"][0]
    return "".join(f"@font-face{{font-family:'{family}';font-weight:{weight};src:url(data:font/woff"
                   f";base64,{_subset(family, weight, characters)}) format('woff')}}"
                   for weight, characters in sorted(used.items()))


def _subset(family: str, weight: str, characters: str) -> str:
    """Return a font with these characters alone, as base64 of a WOFF file."""
    from fontTools import subset  # comes with matplotlib; only an SVG needs it
    options = subset.Options(flavor="woff", recalc_timestamp=False)
    options.drop_tables += ["FFTM"]     # FontForge's time stamp
    font = subset.load_font(findfont(FontProperties(family=family, weight=weight)), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(sorted(set(characters))))
    subsetter.subset(font)
    buffer = io.BytesIO()
    font.save(buffer)
    return base64.b64encode(buffer.getvalue()).decode()
