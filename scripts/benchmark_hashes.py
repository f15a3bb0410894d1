"""Writes the hashes of public benchmarks that decontamination looks for: of their prompts and of their solutions.

    python scripts/benchmark_hashes.py --humaneval HumanEval.jsonl.gz --mbpp sanitized-mbpp.json

The files are those of github.com/openai/human-eval and of mbpp/ in github.com/google-research/google-research. Infilling
sets are made from HumanEval's solutions and need no hashes of their own.
"""

import argparse
import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from codelm.corpus.decontaminate import FOLDER, Contamination


def code_alone(source: str) -> str:
    """Python without its docstrings and imports, for people leave out the one and move the other. Comments stay."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()
    cuts = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or (isinstance(node, ast.Import | ast.ImportFrom) and node in tree.body):
            start = starts[node.lineno - 1] + node.col_offset
            cuts.append((start, starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)))
    for start, end in sorted(cuts, reverse=True):
        data = data[:start] + data[end:]
    return data.decode()


def solutions(source: str) -> tuple[str, str]:
    """A solution without docstrings and imports, as it stands and as a formatter would lay it out."""
    code = code_alone(source)
    return code, ast.unparse(ast.parse(code))


def humaneval(path: Path) -> Iterator[tuple[str, str]]:
    """(problem, text)"""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            name = f"humaneval/{row['task_id']}"
            yield name, row["prompt"]
            yield from ((name, text) for text in solutions(row["prompt"] + row["canonical_solution"]))


def mbpp(path: Path) -> Iterator[tuple[str, str]]:
    """(problem, text)"""
    for row in json.loads(path.read_text(encoding="utf-8")):
        name = f"mbpp/{row['task_id']}"
        yield name, row["prompt"]
        yield from ((name, text) for text in solutions(row["code"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--humaneval", type=Path, required=True)
    parser.add_argument("--mbpp", type=Path, required=True)
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name, texts in (("humaneval", humaneval(arguments.humaneval)), ("mbpp", mbpp(arguments.mbpp))):
        found = Contamination.of(texts)
        path = FOLDER / f"{name}.npz"
        found.write(path)
        print(f"{path}: {len(set(found.names))} problems, {len(found.runs)} hashes, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
