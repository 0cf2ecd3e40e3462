"""
Make the task's items from this repository's own pages: python docs/lm_eval/make.py

An item is a sentence cut in the middle, its own end, and the ends of three other sentences of like
length.
"""

import json
import random
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGES = ("README.md", "docs/data.md", "docs/seven.md", "docs/sparsity.md", "experiments/README.md",
         "tests/README.md")
ITEMS, CHOICES = 64, 4


def sentences() -> list[str]:
    """Plain sentences of 50 to 200 characters, each once."""
    text = " ".join((HERE.parents[1] / page).read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"(?<=[.:?*|] )[A-Z][^|`*#.\[\]]{50,200}\.(?= )", re.sub(r"\s+", " ", text))
    return list(dict.fromkeys(found))


def items() -> list[dict]:
    rng, halves = random.Random(0), []
    for sentence in sentences():
        cut = sentence.index(" ", len(sentence) // 2)
        halves.append((sentence[:cut], sentence[cut:]))
    made = []
    for begin, end in halves[:ITEMS]:
        others = sorted((other for _, other in halves if other != end),
                        key=lambda other: abs(len(other) - len(end)))
        choices = rng.sample([end, *others[:CHOICES - 1]], CHOICES)
        made.append({"text": begin + end, "begin": begin, "choices": choices,
                     "answer": choices.index(end)})
    return made


if __name__ == "__main__":
    made = items()
    (HERE / "pages.jsonl").write_text("".join(json.dumps(item) + "\n" for item in made),
                                      encoding="utf-8")
    print(f"{len(made)} items")
