"""The order of the files of a repository: what is imported comes before what imports it, so that a model that reads
them one after the other knows the names. Guo et al., 2024 (DeepSeek-Coder, arXiv:2401.14196), section 2.2.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_IMPORTS = 64
"""of a file that count"""
MAX_CANDIDATES = 16
"""files of one name among which the nearest is looked for"""
ROOTS = ("", "src", "lib", "include")
"""Folders that names of one part are looked for in, besides those above the file that imports them."""
COMMENT = re.compile(r"#[^\n]*")
QUOTED = re.compile(r"""['"`]([^'"`\n]+)""")


class Family(NamedTuple):
    """Languages that import each other's files in the same way."""

    languages: tuple[str, ...]
    keywords: tuple[str, ...]
    """what an import begins with; with a line feed in front where only the top level of a file counts: an import inside
    a function is there to break a cycle"""
    pattern: re.Pattern[str]
    """the whole import, from the keyword on"""
    targets: Callable[[re.Match[str]], Iterable[str]]
    """its targets as paths without extension: "./x" and "../x" seen from the file, others from wherever code begins"""
    stem: str = ""
    """name of a file that stands for its folder"""
    drops: int = 0
    """parts at the end of a target that may be names inside a file"""


def python(match: re.Match[str]) -> Iterator[str]:
    """`import a.b as c, d` → a/b, d; `from ..a import b, c` → ../a/b, ../a/c."""
    module, names = match[1], COMMENT.sub("", match[2]).strip("()").split(",")
    heads = [name.split()[0] for name in names if name.strip()]
    if module is None:
        yield from (head.replace(".", "/") for head in heads)
        return
    plain = module.lstrip(".")
    dots = len(module) - len(plain)
    base = (("./" if dots == 1 else "../" * (dots - 1)) if dots else "") + plain.replace(".", "/")
    for head in heads:
        yield base if head == "*" else posixpath.join(base, head)


def rust(match: re.Match[str]) -> Iterator[str]:
    """`mod a;` → ./a; `crate::a::{b, c::D}` → a/b, a/c; `super::a` → ../a. Modules are in lower case, types are not."""
    if match[1]:
        yield f"./{match[1]}"
        return
    base = {"crate": "", "super": "../", "self": "./"}[match[2]]
    names = match[3]
    while names.startswith("super::"):
        base, names = base + "../", names.removeprefix("super::")
    head, brace, rest = names.partition("{")
    for part in rest.rstrip("}").split(",") if brace else [""]:
        modules = []
        for name in (head + part.strip()).split("::"):
            if not name or name[:1].isupper() or " " in name:
                break
            modules.append(name)
        if modules:
            yield base + "/".join(modules)


def scripts(match: re.Match[str]) -> Iterator[str]:
    """`from './a.js'` → ./a. What is not relative is a package."""
    if match[1].startswith("."):
        yield re.sub(r"\.(?:[mc]?[jt]sx?|vue|svelte)$", "", match[1])


def quoted(match: re.Match[str]) -> Iterator[str]:
    """Everything between quotes."""
    yield from QUOTED.findall(match[0])


def beside(match: re.Match[str]) -> Iterator[str]:
    """A path from the importing file, without its extension; `package:own/a.dart` from lib."""
    _, package, path = match[1].rpartition("package:")
    yield (path.partition("/")[2] if package else f"./{path}").rpartition(".")[0]


def dotted(match: re.Match[str]) -> Iterator[str]:
    """a.b.C → a/b/C."""
    yield match[1].rstrip(".").replace(".", "/")


FAMILIES = (
    Family(
        ("Python", "Cython"),
        ("\nimport ", "\nfrom "),
        re.compile(r"\n(?:from[ \t]+([\w.]+)[ \t]+)?import[ \t]+(\([^)]*\)|[^\n#(]+)"),
        python,
        stem="__init__",
        drops=1,
    ),
    Family(
        ("JavaScript", "TypeScript", "Vue", "Svelte", "CoffeeScript"),
        ("from '", 'from "', "require(", "\nimport '", '\nimport "', "import("),
        re.compile(r"""\n?(?:from|import|require)\s*\(?\s*['"]([^'"\n]+)"""),
        scripts,
        stem="index",
    ),
    Family(
        ("C", "C++", "Objective-C", "Cuda", "GLSL"),
        ("#include", "# include"),
        re.compile(r"""# ?include[ \t]*(?:"([^"\n]+)"|<([^>\n]+/[^>\n]+)>)"""),
        lambda match: (match[1] or match[2],),
    ),
    Family(
        ("Java", "Kotlin", "Scala", "Groovy"),
        ("\nimport ",),
        re.compile(r"\nimport[ \t]+(?:static[ \t]+)?([\w.]+)"),
        dotted,
        drops=2,
    ),
    Family(("Go",), ("\nimport ",), re.compile(r"""\nimport[ \t]+(?:\([^)]*\)|[^\n]+)"""), quoted),
    Family(
        ("Rust",),
        ("\nmod ", "\npub mod ", "\npub(crate) mod ", "crate::", "super::", "self::"),
        re.compile(r"\n(?:pub(?:\(crate\))? )?mod (\w+);|(crate|super|self)::((?:\w+::)*(?:\w+|\{[^{}]*\}))"),
        rust,
        stem="mod",
        drops=1,
    ),
    Family(("Ruby",), ("require_relative ",), re.compile(r"""require_relative +['"]([^'"\n]+)"""), lambda m: (f"./{m[1]}",)),
    Family(("Haskell",), ("\nimport ",), re.compile(r"\nimport[ \t]+(?:qualified[ \t]+)?([\w.]+)"), dotted),
    Family(("Lua",), ("require",), re.compile(r"""require[ \t]*\(?[ \t]*['"]([\w.]+)"""), dotted),
    Family(
        ("Dart",), ("\nimport ", "\nexport ", "\npart "), re.compile(r"""\n\w+ +['"]((?:package:)?[\w./]+\.dart)"""), beside
    ),
    Family(
        ("Protocol Buffer", "Solidity"),
        ("\nimport ",),
        re.compile(r"""\nimport[^'"\n;]*['"]([^'"\n]+)"""),
        lambda match: (match[1].rpartition(".")[0],),
    ),
)
FAMILY = {language: family for family in FAMILIES for language in family.languages}


def imports_of(text: str, language: str) -> list[str]:
    """What a file imports, as `repository_order` wants it, each once, at most 64; nothing for languages it does not know."""
    family = FAMILY.get(language)
    found: dict[str, None] = {}
    if family is None:
        return []
    text = "\n" + text  # the first line begins like all others
    for keyword in family.keywords:
        at = text.find(keyword)
        while at >= 0 and len(found) < MAX_IMPORTS:
            match = family.pattern.match(text, at)
            if match:
                found |= dict.fromkeys(family.targets(match))
            # the line feed that ends an import begins the next one
            at = text.find(keyword, max(match.end() if match else 0, at + len(keyword) - 1))
    return [target for target in found if target][:MAX_IMPORTS]


def repository_order(paths: Sequence[str], imports: Sequence[Sequence[str]], languages: Sequence[str]) -> list[int]:
    """The position of each file among all: what it imports before it, else by path.

    imports: what `imports_of` said of each. Files are taken in the order of their paths, each after what it imports;
    an import that leads back to a file which is waiting for this one closes a cycle and is passed over. Linear.
    """
    by_path = sorted(range(len(paths)), key=lambda file: paths[file])
    resolve = Resolver([paths[file] for file in by_path], [imports[file] for file in by_path], [languages[f] for f in by_path])
    position = [0] * len(paths)
    placed = 0
    seen: set[int] = set()
    for first in range(len(paths)):
        if first in seen:
            continue
        seen.add(first)
        waiting = [(first, resolve.dependencies(first))]
        while waiting:
            file, rest = waiting[-1]
            dependency = next((other for other in rest if other not in seen), None)
            if dependency is not None:
                seen.add(dependency)
                waiting.append((dependency, resolve.dependencies(dependency)))
                continue
            waiting.pop()
            if file < len(paths):
                position[by_path[file]] = placed
                placed += 1
    return position


class Resolver:
    """Which files of a repository an import means. Files are numbers in the order of their paths; above them stand
    folders, which Go imports as a whole.
    """

    def __init__(self, paths: Sequence[str], imports: Sequence[Sequence[str]] | None, languages: Sequence[str | None]) -> None:
        """imports: of each file, so that only what some of them want is held; None: `imported` will be asked for any."""
        self.paths, self.imports = paths, imports
        self.families = [FAMILY.get(language) if language else None for language in languages]
        self.keys = [key(path, family) for path, family in zip(paths, self.families, strict=True)]
        self.packages = {path[: -len("/__init__.py")] for path in paths if path.endswith("/__init__.py")}
        self.members: list[list[int]] = []
        """of each folder"""
        nodes: dict[tuple[tuple[str, ...], str], int] = {}
        wanted = (
            None
            if imports is None
            else {
                (family.languages, name)
                for file, family in enumerate(self.families)
                if family
                for target in imports[file]
                for name, _ in self.names(file, target, family)
            }
        )
        self.places: dict[tuple[tuple[str, ...], str], list[tuple[str, int]]] = {}
        """(family, the end of a path) → (what stands before that end, file)"""
        for file, family in enumerate(self.families):
            if family is None:
                continue
            node, path = file, self.keys[file]
            if "Go" in family.languages:
                new = len(paths) + len(self.members)
                node = nodes.setdefault((family.languages, path), new)
                if node < new:
                    self.members[node - len(paths)].append(file)
                    continue
                self.members.append([file])
            start = 0
            while start >= 0:
                if wanted is None or (family.languages, path[start:]) in wanted:
                    places = self.places.setdefault((family.languages, path[start:]), [])
                    if len(places) < MAX_CANDIDATES:
                        places.append((path[: max(start - 1, 0)], node))
                start = path.find("/", start) + 1 or -1

    def dependencies(self, node: int) -> Iterator[int]:
        """What a file imports, or the files of a folder, in the order of the paths."""
        if node >= len(self.paths):
            return iter(self.members[node - len(self.paths)])
        return iter(self.imported(node, self.imports[node] if self.imports else ()))

    def imported(self, file: int, targets: Iterable[str]) -> list[int]:
        """What the targets of a file's imports mean, in the order of the paths."""
        family = self.families[file]
        if family is None:
            return []
        found = {self.resolve(file, target, family) for target in targets} - {None, file}
        return sorted(node for node in found if node is not None)

    def resolve(self, file: int, target: str, family: Family) -> int | None:
        """The file that a target means, if it is in this repository."""
        above = posixpath.dirname(self.paths[file])
        for name, relative in self.names(file, target, family):
            places = self.places.get((family.languages, name), ())
            if relative:
                places = [place for place in places if not place[0]]
            elif family.stem == "__init__":  # what stands in a package is not imported by its name alone
                places = [place for place in places if place[0] not in self.packages]
            inner = [place for place in places if not place[0] or above == place[0] or above.startswith(place[0] + "/")]
            if inner:
                return max(inner, key=lambda place: len(place[0]))[1]
            for root, node in places:
                if "/" in name or root in ROOTS:
                    return node
        return None

    def names(self, file: int, target: str, family: Family) -> Iterator[tuple[str, bool]]:
        """The paths that a target may stand for, the best first, and whether they are from the repository's root."""
        relative = target.startswith(".")
        if relative:
            base = self.keys[file] if "Rust" in family.languages else posixpath.dirname(self.paths[file])
            target = posixpath.normpath(posixpath.join(base, target))
        if "Go" in family.languages:  # the module's own name stands in front: host/owner/name, or less
            parts = target.split("/")
            if "." in parts[0]:
                yield from (("/".join(parts[skip:]), True) for skip in range(1, min(5, len(parts))))
            return
        yield target, relative
        if relative and family.stem != "__init__":
            return
        for _ in range(family.drops):
            target = posixpath.dirname(target)
            if target or relative:
                yield target, relative


def key(path: str, family: Family | None) -> str:
    """The name by which a file is imported."""
    if family is None or "C" in family.languages:
        return path
    if "Go" in family.languages:
        return posixpath.dirname(path)
    plain = path[: path.rfind(".")] if "." in posixpath.basename(path) else path
    stems = {family.stem} | ({"lib", "main"} if family.stem == "mod" else set())
    folder, _, name = plain.rpartition("/")
    return folder if name in stems else plain
