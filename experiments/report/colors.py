"""
The figures' colours on the page. They are shifted until each line has enough contrast with the
page's background.
"""

from __future__ import annotations

from experiments.figures.style import BASELINE, ArmStyle

LIGHT, DARK = "#ffffff", "#191f27"   # the backgrounds of the curves (report.css)
CONTRAST = 3.0                       # the least contrast of graphics by WCAG 2.2, 1.4.11


def on_page(style: ArmStyle) -> tuple[str, str]:
    """Return an arm's colours on the light page and on the dark page. The baseline is black on the
    light page and white on the dark one."""
    if style.color == BASELINE:
        return BASELINE, LIGHT
    return readable(style.color, LIGHT, "#000000"), readable(style.color, DARK, "#ffffff")


def readable(color: str, background: str, towards: str) -> str:
    """Return the colour mixed with just enough of `towards` to have enough contrast."""
    for share in range(0, 101, 4):
        mixed = mix(color, towards, share / 100)
        if contrast(mixed, background) >= CONTRAST:
            return mixed
    return towards


def mix(a: str, b: str, share: float) -> str:
    """Return colour a with a `share` (0 to 1) of colour b mixed in."""
    return "#" + "".join(f"{round((1 - share) * x + share * y):02x}"
                         for x, y in zip(_rgb(a), _rgb(b), strict=True))


def contrast(a: str, b: str) -> float:
    """Return WCAG's contrast ratio of two colours, 1 to 21."""
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
              for c in (v / 255 for v in _rgb(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(color: str) -> list[int]:
    return [int(color[i:i + 2], 16) for i in (1, 3, 5)]
