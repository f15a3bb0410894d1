"""What is served with other files of a repository is what was trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codelm import fim
from codelm.config.data import DataConfig, FimConfig
from codelm.corpus.tokens import DOCUMENT, Documents, TokenShard
from codelm.tokenizer import FILE, Tokenizer
from serving import prompt
from serving.llamacpp import LlamaCpp
from training.data import PackedSamples

FILES = {
    "lib/store.py": "class Store:\n    pass",
    "lib/text.py": "def clean(text):\n    return text.strip()\n",
    "main.py": "from lib.store import Store\n\n\ndef main(path):\n    store = Store(path)\n    return store.all()\n"
    "\n\ndef other(path, limit):\n    for value in main(path):\n        if value < limit:\n            print(value)\n",
}
LENGTH = 512


def shard_of(tokenizer: Tokenizer) -> TokenShard:
    """The files as documents of one repository."""
    ids = [tokenizer.encode(text) for text in FILES.values()]
    names = {"repo": "me/mine", "language": "Python", "license": "MIT", "source": "here"}
    columns: dict[str, list[Any]] = {name: [value] * len(FILES) for name, value in names.items()}
    columns |= {"path": list(FILES), "order": list(range(len(FILES))), "size": [len(text) for text in FILES.values()]}
    return TokenShard(
        np.concatenate(ids).astype(np.uint16),
        np.cumsum([0, *map(len, ids)]),
        sum(map(len, FILES.values())),
        documents=Documents(pa.table({name: columns[name] for name in DOCUMENT.names}, schema=DOCUMENT)),
    )


def test_a_served_prompt_is_the_beginning_of_a_training_sample(gguf: Path, tokenizer_dir: Path) -> None:
    """Samples as training packs them, and the prompts that are served for the last file of each."""
    tokenizer, model = Tokenizer(tokenizer_dir / FILE), LlamaCpp(gguf)
    config = DataConfig(repo_share=1, repo_ordered_share=1)
    data = PackedSamples(shard_of(tokenizer), tokenizer, FimConfig(rate=1, spm_rate=1), LENGTH, 0, config)
    others = tuple(FILES.items())[:-1]
    repository = prompt.Repository("me/mine", others, "main.py", fim.longest_name(LENGTH))
    tokens, matched = tokenizer.fim, 0
    for number in range(12):
        sample = data[number].ids.tolist()
        if tokens.fim_middle not in sample:
            continue
        middle_at, end = sample.index(tokens.fim_middle), sample.index(tokens.endoftext)
        suffix = tokenizer.decode(sample[sample.index(tokens.fim_suffix) + 1 : middle_at]).decode()
        written = sample[middle_at + 1 : end]
        for size in range(len(written) + 1):  # a sample does not tell where its prefix ends
            prefix = tokenizer.decode(written[:size]).decode()
            if model.encode(prefix) == written[:size]:
                served = prompt.build(model.fim, fim.Order.SPM, model.encode, prefix, suffix, 2 * LENGTH, repository)
                assert sample[: len(served)] == served
                assert served.count(tokens.file_sep) == len(FILES)
                matched += 1
    model.close()
    assert matched > 12
