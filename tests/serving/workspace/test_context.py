"""What the engine is given for a prompt."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codelm import fim
from serving import prompt
from serving.mixture import Mixer, Mixers
from serving.request import CompletionRequest, SourceFile
from serving.workspace.context import MAX_WORKSPACES, Contexts

TOKENS = fim.FimTokens(*range(1000, 1007))
BUDGET = 4_000
LIBRARY = "def open_store(path):\n    return path\n"
ALICES = "".join(f"def helper_{number}():\n    return connect_vault('alice', {number})\n\n" for number in range(20))
BOBS = "def connect_vault(name):\n    pass\n"
OPEN = "from lib import open_store\n\n\ndef main():\n    store = "


def encode(text: str) -> list[int]:
    """A token a byte."""
    return list(text.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "mine"
    (root / ".git").mkdir(parents=True)
    (root / "lib.py").write_text(LIBRARY, encoding="utf-8")
    (root / "main.py").write_text(OPEN, encoding="utf-8")
    return root


def contexts(*, repo_context: bool = True, read_files: bool = True) -> Contexts:
    return Contexts(TOKENS, 4_096, repo_context=repo_context, read_files=read_files)


@pytest.fixture
def all_on() -> Iterator[Contexts]:
    made = contexts()
    yield made
    made.close()


def brings(client: str | None, text: str, file: str = "/app/util.py") -> CompletionRequest:
    """A request with another file of a project whose folder is not read."""
    head = "from util import connect_vault\n\n\ndef main():\n    connect_vault("
    path, files = "/app/main.py", (SourceFile(path=file, text=text),)
    return CompletionRequest(prefix=head, suffix="\n", path=path, document=f"file://{path}", client=client, files=files)


def asked(root: Path, prefix: str = OPEN, suffix: str = "\n", **options: object) -> CompletionRequest:
    path = str(root / "main.py")
    return CompletionRequest(prefix=prefix, suffix=suffix, path=path, document=f"file://{path}", **options)  # type: ignore[arg-type]


def ids(made: Contexts, request: CompletionRequest) -> list[int]:
    context = made.of(request, encode, BUDGET)
    return prompt.build(TOKENS, fim.Order.SPM, encode, request.prefix, context.suffix, BUDGET, context.repository)


def wait_for(made: Contexts, root: Path) -> None:
    end = time.monotonic() + 60
    made.of(asked(root), encode, BUDGET)
    while not all(facts["ready"] for facts in made.facts()["workspaces"]):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_files_of_the_repository_around_the_document(all_on: Contexts, root: Path) -> None:
    wait_for(all_on, root)
    repository = all_on.of(asked(root), encode, BUDGET).repository
    assert repository == prompt.Repository("mine", (("lib.py", LIBRARY),), "main.py", fim.longest_name(4_096))
    assert [facts["root"] for facts in all_on.facts()["workspaces"]] == [str(root)]


def test_typing_only_appends(all_on: Contexts, root: Path) -> None:
    wait_for(all_on, root)
    before = ids(all_on, asked(root))
    for end in range(1, len("open_store(")):
        now = ids(all_on, asked(root, OPEN + "open_store("[:end]))
        assert now[: len(before)] == before
        before = now
    closed = ids(all_on, asked(root, OPEN + "open_store(", ")\n"))
    assert closed == before + encode("("), "a bracket that the editor closes changes nothing before it"


def test_a_model_that_knows_no_repositories_gets_none(root: Path) -> None:
    made = contexts(repo_context=False)
    assert made.of(asked(root), encode, BUDGET).repository is None
    assert made.facts() == {"workspaces": [], "mixture": None}


def test_where_files_may_not_be_read_what_the_request_brings_is_used(root: Path) -> None:
    made = contexts(read_files=False)
    file = SourceFile(path="/elsewhere/lib.py", text=LIBRARY)
    repository = made.of(asked(root, files=(file,), roots=(str(root),)), encode, BUDGET).repository
    assert repository is not None
    assert repository.files == (("elsewhere/lib.py", LIBRARY),)
    assert made.facts()["workspaces"] == [], "no folder is one"
    made.close()


@pytest.mark.parametrize("client", [None, "bob"], ids=["unnamed", "named"])
def test_what_one_client_brings_along_is_in_no_other_ones_prompt(client: str | None) -> None:
    """Though both have files of the same names, as in containers, and one has just been looked at for the other."""
    made = contexts(read_files=False)
    alice = made.of(brings("alice" if client else None, ALICES), encode, BUDGET).repository
    assert alice and "alice" in str(alice.files)
    bob = made.of(brings(client, BOBS), encode, BUDGET).repository
    made.close()
    assert bob and "alice" not in str(bob.files)


def test_what_one_without_a_name_brings_along_is_in_no_other_ones_mixture() -> None:
    def new_mixer(on_change: Callable[[], object]) -> Mixer:
        return Mixer(encode, lambda token: bytes([token]), 256, on_change=on_change)

    mixers = Mixers(new_mixer)
    made = Contexts(TOKENS, 4_096, repo_context=False, read_files=False, mixers=mixers)
    for text, file in ((ALICES, "/app/alice.py"), (BOBS, "/app/bob.py")):
        mixing = made.begin(brings(None, text, file), encode("connect_vault("))
        mixers.wait()
    assert 0 < mixing._mixer.tokens <= len(encode(BOBS))  # type: ignore[attr-defined]
    made.close()


def test_a_request_without_a_path_is_about_the_text_alone(all_on: Contexts) -> None:
    assert all_on.of(CompletionRequest(prefix="x", suffix="y"), encode, BUDGET) == ("y", None)


def test_not_more_than_some_folders_are_watched(all_on: Contexts, tmp_path: Path) -> None:
    for number in range(MAX_WORKSPACES + 2):
        root = tmp_path / str(number)
        root.mkdir()
        all_on.of(asked(root, roots=(str(root),)), encode, BUDGET)
    assert [facts["root"] for facts in all_on.facts()["workspaces"]] == [
        str(tmp_path.resolve() / str(n)) for n in range(2, MAX_WORKSPACES + 2)
    ]


def test_little_room_is_no_error(all_on: Contexts, root: Path) -> None:
    wait_for(all_on, root)
    for budget in range(8, 200, 7):
        request = asked(root)
        context = all_on.of(request, encode, budget)
        assert (
            len(prompt.build(TOKENS, fim.Order.SPM, encode, request.prefix, context.suffix, budget, context.repository))
            <= budget
        )
