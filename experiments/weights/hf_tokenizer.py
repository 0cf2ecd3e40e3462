"""
Write a run's tokenizer as files that AutoTokenizer opens. It gives the same ids for the same text,
and the text back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.corpus.tokenizers import Tokenizer
from mingpt.bpe import END_OF_TEXT, bytes_to_unicode, get_encoder, gpt2_merges
from mingpt.utils import BadInput, write_atomic

# Families for which AutoTokenizer splits text in its own way and ignores the folder's files
# (transformers 5.23).
OWN_SPLITTING = frozenset({"qwen2"})
# Texts on which ways of splitting differ: digits, blanks, combining marks, and the end of a
# document written as text.
TELLING = ("don't  12345 \n\n x\r\n\ty", "e\u0301t\u00e9 \U0001f917 \u65e5\u672c\u8a9e",
           f"{END_OF_TEXT} is text", " ")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """Write tokenizer.json, the format of the `tokenizers` library, and tokenizer_config.json.
    `length` is the model's number of positions. BadInput for an encoding that is neither GPT-2's
    nor bytes."""
    if tokenizer.name not in BUILDERS:
        raise BadInput(f"data.tokenizer={tokenizer.name!r} has no counterpart in Hugging Face's "
                       f"files; known: {', '.join(BUILDERS)}")
    document = BUILDERS[tokenizer.name](tokenizer.eot)
    write_atomic(Path(folder) / "tokenizer.json", json.dumps(document, ensure_ascii=False))
    write_atomic(Path(folder) / "tokenizer_config.json", json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length,
        "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,   # as in our tokenizer: '<|endoftext|>' in a text is text
    }, indent=2) + "\n")


def same_ids(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether the tokenizer that AutoTokenizer opens gives the same ids, and the text back."""
    from transformers import AutoTokenizer
    theirs = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(text).tolist() for text in TELLING]
    return ([theirs(text)["input_ids"] for text in TELLING] == ids
            and [theirs.decode(i) for i in ids] == list(TELLING))


def gpt2_document(eot: int) -> dict[str, Any]:
    """tokenizer.json for GPT-2's encoding: split by its regular expression, then merged."""
    return _document(get_encoder().encoder, gpt2_merges(), eot, use_regex=True)


def byte_document(eot: int) -> dict[str, Any]:
    """tokenizer.json for bytes: each byte of UTF-8 is its own id, and nothing is merged."""
    vocabulary = {drawn: byte for byte, drawn in sorted(bytes_to_unicode().items())}
    return _document({**vocabulary, END_OF_TEXT: eot}, [], eot, use_regex=False)


def _document(vocabulary: dict[str, int], merges: list[tuple[str, str]], eot: int,
              use_regex: bool) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": use_regex}
    end = {"id": eot, "content": END_OF_TEXT, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
            "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocabulary, "merges": [list(pair) for pair in merges]}}


BUILDERS = {"gpt2": gpt2_document, "byte": byte_document}
