r"""
GPT-2's byte pair encoding: text ↔ integers below 50,257.

It has the names of minGPT's `bpe` and gives the same integers. Two things differ. The vocabulary
ships with the package (`gpt2.tiktoken`, checked by its hash, never downloaded). `encode` runs in
tiktoken's compiled code; `bpe` and `encode_and_show_work` keep the slow, readable path, which gives
the same result.

An encoding goes through four steps:
    text    'Hello 🤗'
    words   ['Hello', ' 🤗']                    split by a regular expression, spaces kept
    bytes   ['Hello', 'ĠðŁ¤Ĺ']                  UTF-8, each byte written as one printable character
    merges  [['Hello'], ['ĠðŁ', '¤', 'Ĺ']]      the earliest-learned pair first, until none is left
    ids     [15496, 12520, 97, 245]
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import regex
import tiktoken

from mingpt.utils import BadInput

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = Path(__file__).with_name("gpt2.tiktoken")
VOCABULARY_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

# Contractions, letters, digits, other characters, white space. The last of several blanks belongs
# to the word that follows.
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# Gives the same words 1.5 times as fast: in this grouping, the compiled engine looks back and ahead
# only for white space. Half a million blanks before a letter would overflow the engine's stack, so
# `safe_pieces` cuts LONG_BLANKS first.
FAST_SPLIT = r"""(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s++$|\s+(?!\S)|\s"""
# The look-behind lets a match begin only where a run begins. Without it, the engine would try every
# blank of a run as a start.
LONG_BLANKS = regex.compile(r"(?<!\s)\s{100000,}+")


def bytes_to_unicode() -> dict[int, str]:
    """Return a dict from each of the 256 bytes to a printable character.

    The 188 bytes that Latin-1 prints as a visible character stand for themselves. The other 68
    (controls, blanks, the soft hyphen) get the characters from U+0100 on, in order; the blank
    becomes 'Ġ'.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(visible)]
    table = {b: chr(b) for b in visible}
    table.update({b: chr(256 + n) for n, b in enumerate(hidden)})
    return table


def get_pairs(word: tuple[str, ...] | str) -> set[tuple[str, str]]:
    """Return the set of neighbouring pairs in a word: 'abab' → {('a', 'b'), ('b', 'a')}."""
    return set(zip(word, word[1:], strict=False))


class Encoder:
    """A byte pair encoder. `encoder` maps token strings to ids; `bpe_merges` lists pairs of token
    strings in the order in which they were learned."""

    def __init__(self, encoder: dict[str, int], bpe_merges: list[tuple[str, str]]):
        self.byte_encoder = bytes_to_unicode()
        self.byte_decoder = {c: b for b, c in self.byte_encoder.items()}
        self.encoder = encoder
        self.decoder = {i: token for token, i in encoder.items()}
        self.bpe_ranks = {pair: rank for rank, pair in enumerate(bpe_merges)}
        self.pat = regex.compile(SPLIT)
        self.cache: dict[str, str] = {}
        self._compiled = self._compile(bpe_merges)

    def _compile(self, bpe_merges: list[tuple[str, str]]) -> tiktoken.Encoding | None:
        """Return the same vocabulary in tiktoken, or None where the ids are not in the order of the
        merges: tiktoken merges first what gives the lowest id."""
        merged = [self.encoder.get(a + b) for a, b in bpe_merges]
        if None in merged or merged != sorted(set(merged)):
            return None
        if any(c not in self.encoder for c in self.byte_decoder):
            return None
        ranks = {self._to_bytes(a + b): self.encoder[a + b] for a, b in bpe_merges}
        ranks.update({bytes([b]): self.encoder[c] for b, c in self.byte_encoder.items()})
        return tiktoken.Encoding("mingpt", pat_str=FAST_SPLIT, mergeable_ranks=ranks,
                                 special_tokens={})

    def _to_bytes(self, token: str) -> bytes:
        """A token's printable characters → its bytes."""
        return bytes(self.byte_decoder[c] for c in token)

    def bpe(self, token: str) -> str:
        """Merge one word of printable characters until no merge applies, and return its tokens with
        blanks between them: 'ĠKarpathy' → 'ĠK arp athy'."""
        if token in self.cache:
            return self.cache[token]
        parts = tuple(token)
        while len(parts) > 1:
            best = min(get_pairs(parts), key=lambda pair: self.bpe_ranks.get(pair, float("inf")))
            if best not in self.bpe_ranks:
                break
            parts = _merge(parts, best)
        self.cache[token] = " ".join(parts)   # no part contains a blank: byte 32 is written 'Ġ'
        return self.cache[token]

    def encode(self, text: str) -> list[int]:
        """Text → a list of ids. '<|endoftext|>' in the text is encoded as ordinary text."""
        if self._compiled is not None:
            return [i for piece in safe_pieces(text) for i in self._compiled.encode_ordinary(piece)]
        return self.encode_and_show_work(text)["bpe_idx"]

    def encode_and_show_work(self, text: str) -> dict[str, Any]:
        """Encode like `encode`, and return every step: {'bpe_idx': ids, 'tokens': words, 'parts':
        one dict per word}."""
        words = self.pat.findall(text)
        parts = [self._show_word(word) for word in words]
        return {"bpe_idx": [i for part in parts for i in part["token_ix"]], "tokens": words,
                "parts": parts}

    def _show_word(self, word: str) -> dict[str, Any]:
        """One word's bytes, printable characters, tokens and ids."""
        raw = word.encode("utf-8")
        translated = "".join(self.byte_encoder[b] for b in raw)
        merged = self.bpe(translated).split(" ")
        return {"token": word, "token_bytes": raw, "token_translated": translated,
                "token_merged": merged, "token_ix": [self.encoder[t] for t in merged]}

    def decode(self, bpe_idx: list[int]) -> str:
        """A list of ids → text. Bytes that are not UTF-8, such as half a character, become
        U+FFFD."""
        raw = b"".join(self._to_bytes(self.decoder[i]) for i in bpe_idx)
        return raw.decode("utf-8", errors="replace")


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of a pair, from left to right."""
    out, i = [], 0
    while i < len(parts):
        joins = parts[i:i + 2] == pair
        out.append(pair[0] + pair[1] if joins else parts[i])
        i += 2 if joins else 1
    return tuple(out)


def safe_pieces(text: str) -> list[str]:
    """Cut a text before the last blank of each very long run that a word follows, and return the
    pieces. Most texts stay one piece.

    SPLIT cuts there too, so GPT-2's ids stay the same. A run at the end of the text is one word and
    needs no cut. Other encodings may join that blank with the run: their ids can differ by one
    token per run of 100,000 blanks. Time is linear in the length of the text.
    """
    return [text] if len(text) < 100_000 else cut_runs(text, LONG_BLANKS)


def cut_runs(text: str, runs: regex.Pattern) -> list[str]:
    """Cut a text before the last blank of each run that the pattern finds, unless the run ends the
    text. Returns the pieces."""
    ends = (run.end() for run in runs.finditer(text))
    cuts = [0, *(end - 1 for end in ends if end < len(text)), len(text)]
    return [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


@functools.cache
def gpt2_ranks() -> dict[bytes, int]:
    """Return the shipped vocabulary without its special token: a dict from 50,256 byte strings to
    ids, in the order in which they were learned. Raises BadInput if the file's hash differs."""
    content = VOCABULARY.read_bytes()
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise BadInput(f"{VOCABULARY} is not GPT-2's vocabulary (its SHA-256 differs): install the "
                       f"package again")
    pairs = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@functools.cache
def gpt2_encoding() -> tiktoken.Encoding:
    """Return GPT-2's encoding in tiktoken, made from the shipped vocabulary, with '<|endoftext|>'
    as 50256."""
    ranks = gpt2_ranks()
    return tiktoken.Encoding("gpt2-shipped", pat_str=FAST_SPLIT, mergeable_ranks=ranks,
                             special_tokens={END_OF_TEXT: len(ranks)})


def _recover_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens whose merge made this one. To find them, its bytes are merged with the
    tokens learned before it, until two parts remain."""
    parts, limit = [token[i:i + 1] for i in range(len(token))], ranks[token]
    while len(parts) > 2:
        candidates = [ranks.get(a + b, limit) for a, b in zip(parts, parts[1:], strict=False)]
        i = candidates.index(min(candidates))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@functools.cache
def gpt2_merges() -> list[tuple[str, str]]:
    """Return the 50,000 merges behind the vocabulary, as pairs of printable strings:
    [('Ġ', 't'), ('Ġ', 'a'), …]."""
    ranks, printable = gpt2_ranks(), bytes_to_unicode()
    pairs = (_recover_pair(token, ranks) for token in ranks if len(token) > 1)
    return [("".join(printable[b] for b in left), "".join(printable[b] for b in right))
            for left, right in pairs]


def get_encoder() -> Encoder:
    """Return GPT-2's Encoder: 256 bytes, 50,000 merges and '<|endoftext|>'."""
    printable = bytes_to_unicode()
    encoder = {"".join(printable[b] for b in token): rank for token, rank in gpt2_ranks().items()}
    encoder[END_OF_TEXT] = len(encoder)
    return Encoder(encoder, gpt2_merges())


class BPETokenizer:
    """GPT-2's Encoder with tensors in place of lists: text → LongTensor (1, T), and LongTensor
    (T,) → text."""

    def __init__(self):
        self.encoder = get_encoder()

    def __call__(self, text: str, return_tensors: str = "pt"):
        """Text → a LongTensor (1, T) of ids."""
        # this is Hugging Face's interface; only PyTorch tensors are supported
        assert return_tensors == "pt"
        assert isinstance(text, str)
        import torch  # imported here, because corpora are tokenised without torch
        return torch.tensor([self.encoder.encode(text)], dtype=torch.long)

    def decode(self, idx) -> str:
        """A LongTensor (T,) of ids → text."""
        assert idx.ndim == 1
        return self.encoder.decode(idx.tolist())


def main() -> None:
    """Print one encoding, step by step."""
    text = "Hello!! I'm Andrej Karpathy. It's 2022. w00t :D 🤗"
    work = get_encoder().encode_and_show_work(text)
    print(f"The text:\n{text}\nsplits into words:\n{work['tokens']}\nand each word becomes ids:")
    for part in work["parts"]:
        print(part)
    print(f"which, one after the other, are what a Transformer reads:\n{work['bpe_idx']}")


if __name__ == "__main__":
    main()
