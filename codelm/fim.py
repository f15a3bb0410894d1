"""The fill-in-the-middle prompt format, for training and serving alike: the one place that knows it.

Two orders of the same three texts around a cursor, as in Bavarian et al. 2022 (arXiv 2207.14255, "PSM" and "SPM" variant 2):

    PSM  <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>
    SPM  <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle <|endoftext|>

Prefix, middle and suffix are tokenised apart, in training as in serving, so a served prompt is token-identical to the
beginning of a training example. Serving uses SPM: what is typed only appends to the prompt, and the KV cache stays.

Files of one repository, as in Qwen2.5-Coder (arXiv 2409.12186, section 3.2.2), are laid one after the other, each content
ending a line; the last of them may be a fill-in-the-middle example:

    <|repo_name|>name⏎ <|file_sep|>path⏎ content <|file_sep|>path⏎ content … <|endoftext|>

Served, the files before the last are chunks of the workspace, and the last is the prompt of the open file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

# Qwen's names: llama.cpp recognises them by text. Their order is their order in every vocabulary we train.
ENDOFTEXT = "<|endoftext|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
FIM_PAD = "<|fim_pad|>"
REPO_NAME = "<|repo_name|>"
FILE_SEP = "<|file_sep|>"
SPECIAL_TOKENS = (ENDOFTEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, REPO_NAME, FILE_SEP)


class Order(StrEnum):
    """The order of the texts around the cursor in the prompt."""

    PSM = "psm"
    SPM = "spm"


@dataclass(frozen=True)
class FimTokens:
    """The ids of the special tokens in one vocabulary."""

    endoftext: int
    fim_prefix: int
    fim_middle: int
    fim_suffix: int
    fim_pad: int
    repo_name: int
    file_sep: int

    @classmethod
    def lookup(cls, token_to_id: Callable[[str], int | None]) -> "FimTokens":
        """The ids by the tokens' texts. Raises ValueError if the vocabulary lacks one."""
        ids = [token_to_id(token) for token in SPECIAL_TOKENS]
        missing = [token for token, id_ in zip(SPECIAL_TOKENS, ids, strict=True) if id_ is None]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}")
        return cls(*(id_ for id_ in ids if id_ is not None))


def prompt(tokens: FimTokens, order: Order, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """The token ids after which the model writes the middle.

    prefix, suffix: ids of the text before and after the cursor, each tokenised apart and without special tokens.
    """
    if order is Order.SPM:
        return [tokens.fim_prefix, tokens.fim_suffix, *suffix, tokens.fim_middle, *prefix]
    return [tokens.fim_prefix, *prefix, tokens.fim_suffix, *suffix, tokens.fim_middle]


def example(tokens: FimTokens, order: Order, prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """The token ids of a training example: the prompt, the middle and the end of text."""
    return [*prompt(tokens, order, prefix, suffix), *middle, tokens.endoftext]


def repo_header(tokens: FimTokens, encode: Callable[[str], Sequence[int]], name: str) -> list[int]:
    """The token ids that open the files of a repository."""
    return [tokens.repo_name, *encode(f"{name}\n")]


def file_header(tokens: FimTokens, encode: Callable[[str], Sequence[int]], path: str) -> list[int]:
    """The token ids that open a file of a repository."""
    return [tokens.file_sep, *encode(f"{path}\n")]


def file_content(encode: Callable[[str], Sequence[int]], text: str) -> list[int]:
    """The token ids of a file's text, whose last line is ended if it is not."""
    return [*encode(text), *(() if text.endswith("\n") else encode("\n"))]


def longest_name(window: int) -> int:
    """How many tokens a name may have in a context of `window` tokens: an eighth of a training window, which is one longer."""
    return (window + 1) // 8


def shortened(header: Sequence[int], longest: int) -> list[int]:
    """A header whose name has at most `longest` tokens; the end of a path tells more than its beginning."""
    return [header[0], *header[max(1, len(header) - longest) :]]


def repository(
    tokens: FimTokens,
    encode: Callable[[str], Sequence[int]],
    name: str,
    files: Sequence[tuple[str, str]],
    path: str,
    longest: int,
) -> list[int]:
    """The token ids in front of a file's prompt: its repository's name, other files of it, and the file's own name.

    files: (path, text), whole files or runs of lines. path: of the file that the prompt is for. longest: `longest_name` of
    the context.
    """
    ids = shortened(repo_header(tokens, encode, name), longest)
    for other, text in files:
        ids += [*shortened(file_header(tokens, encode, other), longest), *file_content(encode, text)]
    return ids + shortened(file_header(tokens, encode, path), longest)


OVERHEAD = 4
"""How many special tokens `example` adds to its three texts."""
