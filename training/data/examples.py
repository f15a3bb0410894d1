"""Pieces of documents as fill-in-the-middle examples."""

import bisect
import itertools
import re

import numpy as np
import numpy.typing as npt

from codelm import fim
from codelm.config.data import FimConfig
from codelm.corpus.prose import by_half
from codelm.tokenizer import Tokenizer
from training.data.packing import Piece
from training.loss import KINDS
from training.spans import draw_span

SHORTEST_FIM_PIECE = 24
"""Tokens; in a shorter piece the special tokens would be most of the example."""
LINE_BEGIN = re.compile(rb"\n(?=[ \t]*[!-~])")
CODE, PROSE, MIDDLE = range(len(KINDS))
AS_KINDS = fim.FimTokens(MIDDLE, CODE, CODE, CODE, CODE, CODE, CODE)
"""What the special tokens of an example count as: the end is part of what the middle has to say."""


def fim_piece(
    piece: Piece, tokenizer: Tokenizer, config: FimConfig, random: np.random.Generator, language: str | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A piece of a document as a fill-in-the-middle example of at most its own length: ids and their kinds.

    The text is cut at characters and its three parts are tokenised apart, as a served prompt is. What the special tokens
    and the cuts add is taken from the far ends of the context, the ends that a served prompt's windows cut too ("context
    level", Bavarian et al. 2022, section 4.4). A piece whose text is not whole UTF-8 (its window began inside a character)
    stays as it is. Where a window cut the document off, no middle ends.
    """
    as_it_is = piece.ids, piece.prose.astype(np.int64)
    data = tokenizer.decode(piece.ids.tolist())
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return as_it_is
    span = draw_span(text, config, random, language, ends=tokenizer.fim.endoftext in piece.ids[-1:])
    order = fim.Order.SPM if random.random() < config.spm_rate else fim.Order.PSM
    if span is None:
        return as_it_is
    begin, end = (len(text[:place].encode()) for place in span)
    prefix, middle, suffix = encode_parts(data, piece.ids, (0, begin, end, len(data)), tokenizer)
    kinds = kinds_of(np.array(prefix + middle + suffix, dtype=np.int64), piece, tokenizer)
    before, behind = kinds[: len(prefix)], kinds[len(prefix) + len(middle) :]
    excess = fim.OVERHEAD + len(prefix) + len(middle) + len(suffix) - len(piece.ids)
    if excess > 0:
        from_suffix = min(len(suffix), excess // 2)
        from_prefix = min(len(prefix), excess - from_suffix)
        from_suffix = min(len(suffix), excess - from_prefix)
        if from_prefix + from_suffix < excess:
            return as_it_is
        prefix, before = prefix[from_prefix:], before[from_prefix:]
        suffix, behind = suffix[: len(suffix) - from_suffix], behind[: len(suffix) - from_suffix]
    return (
        np.asarray(fim.example(tokenizer.fim, order, prefix, middle, suffix), dtype=np.int64),
        np.asarray(fim.example(AS_KINDS, order, before, [MIDDLE] * len(middle), behind), dtype=np.int64),
    )


def encode_parts(data: bytes, ids: npt.NDArray[np.int64], cuts: tuple[int, ...], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of the parts of a text between cuts, as `tokenizer.encode` gives them of each, in a quarter of the time.

    data: what `ids` stand for. cuts: in bytes. No token goes over the begin of a line that is not blank, so of each part only
    the lines at its ends, which a cut may have changed, are encoded; those between keep their ids.
    """
    lines = [match.end() for match in LINE_BEGIN.finditer(data)]
    token_ends = np.cumsum(tokenizer.byte_lengths[ids])
    parts = []
    for begin, end in itertools.pairwise(cuts):
        first, last = bisect.bisect_left(lines, begin), bisect.bisect_right(lines, end) - 1
        if first >= last:
            parts.append(tokenizer.encode(data[begin:end].decode()))
            continue
        head, tail = data[begin : lines[first]], data[lines[last] : end]
        whole_lines = [lines[first], lines[last]]
        kept_from, kept_to = np.searchsorted(token_ends, whole_lines) + 1
        assert token_ends[[kept_from - 1, kept_to - 1]].tolist() == whole_lines, "a token goes over the begin of a line"
        kept = ids[kept_from:kept_to]
        parts.append(
            [
                *(tokenizer.encode(head.decode()) if head else ()),
                *kept.tolist(),
                *(tokenizer.encode(tail.decode()) if tail else ()),
            ]
        )
    return parts


def kinds_of(ids: npt.NDArray[np.int64], piece: Piece, tokenizer: Tokenizer) -> list[int]:
    """Code or prose, for the text of a piece that was cut into other tokens."""
    if not piece.prose.any():
        return [CODE] * len(ids)
    inside = np.repeat(piece.prose, tokenizer.byte_lengths[piece.ids])
    return [PROSE if prose else CODE for prose in by_half(inside, tokenizer.byte_lengths[ids]).tolist()]
