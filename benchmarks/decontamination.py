"""Solutions of benchmarks planted in real files, and false hits on files without any.

Every solution of HumanEval and of the sanitized MBPP is put into a file of the standard library: at the end or between two
functions, at a varied indentation, with its prompt as docstring or without. All have to be found. Then, not required, the
same after changes: comments dropped, the code laid out anew, the function renamed, another docstring. The clean files are
those of the Python installation that runs this; each hit is printed.

    python benchmarks/decontamination.py --data DIR

DIR holds HumanEval.jsonl.gz (github.com/openai/human-eval) and sanitized-mbpp.json (mbpp/ in
github.com/google-research/google-research). The last line is one JSON object with all figures.
"""

import argparse
import ast
import gzip
import io
import json
import random
import sysconfig
import textwrap
import time
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from codelm.config.corpus import Decontamination
from codelm.corpus.decontaminate import Contamination
from codelm.lexemes import lexemes

OTHER_DOCSTRING = '"""Helper of the exercises; see the notes of week three for what it takes and what it gives back."""'


class Problem(NamedTuple):
    name: str
    entry: str
    documented: str
    """the solution with its prompt as docstring"""

    @property
    def bare(self) -> str:
        """The solution without docstrings."""
        return documented_with(self.documented, "")


def documented_with(source: str, docstring: str) -> str:
    """Another docstring, or none, in the place of every one; the rest byte for byte."""
    lines = source.splitlines(keepends=True)
    for node in sorted(ast.walk(ast.parse(source)), key=lambda node: -getattr(node, "lineno", 0)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + docstring + "\n"] if docstring else []
    return "".join(lines)


def problems(folder: Path) -> list[Problem]:
    """HumanEval, then MBPP, whose prompts are put into its functions as docstrings."""
    found = []
    with gzip.open(folder / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            found.append(Problem(f"humaneval/{row['task_id']}", row["entry_point"], row["prompt"] + row["canonical_solution"]))
    for row in json.loads((folder / "sanitized-mbpp.json").read_text(encoding="utf-8")):
        tests = " ".join(row["test_list"]).replace(" (", "(")
        lines = row["code"].expandtabs(4).splitlines()
        function = next(
            node
            for node in reversed(ast.parse("\n".join(lines)).body)
            if isinstance(node, ast.FunctionDef) and f"{node.name}(" in tests
        )
        first = function.body[0]
        if first.lineno > function.lineno:
            lines.insert(first.lineno - 1, f'{" " * first.col_offset}"""{row["prompt"]}"""')
        found.append(Problem(f"mbpp/{row['task_id']}", function.name, "\n".join(lines) + "\n"))
    return found


def planted(text: str, host: str, generator: random.Random) -> bytes:
    """A text in a file, before one of its top-level statements or after the last, indented as if in a class or a branch."""
    lines = host.splitlines()
    indent = generator.choice(["", "    ", "  ", "\t", "        "])
    places = [node.lineno - 1 for node in ast.parse(host).body] + [len(lines)]
    place = generator.choice(places)
    block = textwrap.indent(text, indent)
    if indent:
        block = f"class Exercise_{generator.randrange(100)}:\n{block}"
    return "\n".join([*lines[:place], "", block, "", *lines[place:]]).encode()


def without_comments(source: str) -> str:
    """Python without its comments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return tokenize.untokenize(token for token in tokens if token.type != tokenize.COMMENT)


VARIANTS: dict[str, Callable[[Problem], str]] = {
    "documented": lambda one: one.documented,
    "bare": lambda one: one.bare,
    "documented, without comments": lambda one: without_comments(one.documented),
    "bare, without comments": lambda one: without_comments(one.bare),
    "documented, laid out anew": lambda one: ast.unparse(ast.parse(one.documented)),
    "bare, laid out anew": lambda one: ast.unparse(ast.parse(one.bare)),
    "documented, renamed": lambda one: one.documented.replace(one.entry, "exercise_of_the_week"),
    "bare, renamed": lambda one: one.bare.replace(one.entry, "exercise_of_the_week"),
    "another docstring": lambda one: documented_with(one.documented, OTHER_DOCSTRING),
}
REQUIRED = ("documented", "bare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clean", type=int, default=10_000, help="files without solutions")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    contamination = Contamination.load(Decontamination())
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = sorted({path for folder in folders for path in folder.rglob("*.py") if path.is_file()})
    stdlib = Path(sysconfig.get_path("stdlib"))
    hosts = [path.read_text(encoding="utf-8") for path in sorted(stdlib.glob("*.py")) if path.stat().st_size < 60_000]
    listed = problems(arguments.data)

    found, missed = {}, {}
    for variant, text in VARIANTS.items():
        files = [planted(text(one), generator.choice(hosts), generator) for one in listed]
        answers = [contamination.find(lexemes(data), data) for data in files]
        lost = [one.name for one, answer in zip(listed, answers, strict=True) if answer is None]
        found[variant] = round(1 - len(lost) / len(listed), 4)
        if lost:
            missed[variant] = len(lost)
        if variant in REQUIRED:
            wrong = [
                f"{one.name} as {answer}" for one, answer in zip(listed, answers, strict=True) if answer not in (None, one.name)
            ]
            print(f"{variant}: missed {lost}, under another name {wrong}")

    size, seconds, hits = 0, 0.0, []
    clean = generator.sample(paths, min(arguments.clean, len(paths)))
    for path in clean:
        data = path.read_bytes()
        words = lexemes(data)
        start = time.process_time()
        hit = contamination.find(words, data)
        seconds += time.process_time() - start
        size += len(data)
        if hit:
            hits.append(hit)
            print(f"false hit? {hit} in {path}")
    print(
        json.dumps(
            {
                "problems": len(listed),
                "found": found,
                "missed": missed,
                "clean_files": len(clean),
                "clean_megabytes": round(size / 1e6, 1),
                "hits_on_clean_files": len(hits),
                "megabytes_per_second": round(size / 1e6 / seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
