"""
The figures' colours where a page's background is not theirs: shifted until a line can be told from
it.
"""

from __future__ import annotations

from experiments.figures.style import BASELINE, ArmStyle

LIGHT, DARK = "#ffffff", "#191f27"   # what curves stand on (report.css)
CONTRAST = 3.0                       # WCAG 2.2, 1.4.11: graphics


def on_page(style: ArmStyle) -> tuple[str, str]:
    """An arm's colour on the light page and on the dark one; the baseline is black here and white
    there."""
    if style.color == BASELINE:
        return BASELINE, LIGHT
    return readable(style.color, LIGHT, "#000000"), readable(style.color, DARK, "#ffffff")


def readable(color: str, background: str, towards: str) -> str:
    """The colour, mixed with `towards` as little as gives enough contrast."""
    for share in range(0, 101, 4):
        mixed = mix(color, towards, share / 100)
        if contrast(mixed, background) >= CONTRAST:
            return mixed
    return towards


def mix(a: str, b: str, share: float) -> str:
    """`share` of b in a."""
    return "#" + "".join(f"{round((1 - share) * x + share * y):02x}" for x,
                         y in zip(_rgb(a), _rgb(b), strict=True))


def contrast(a: str, b: str) -> float:
    """WCAG's ratio, 1 to 21."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
              for c in (v / 255 for v in _rgb(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(color: str) -> list[int]:
    return [int(color[i:i + 2], 16) for i in (1, 3, 5)]
