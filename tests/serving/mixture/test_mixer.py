"""The mixture with a real vocabulary: a distribution, recalling what the project says and never what follows the cursor."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codelm.tokenizer import FILE, Tokenizer
from serving.mixture import Kind, Mixer
from serving.mixture.mixer import FIRST_CHARS
from serving.mixture.table import MAX_VOCAB
from serving.mixture.weights import FILE as FITTED
from serving.mixture.weights import Floats
from serving.request import CompletionRequest, SourceFile

HELPER = "def compute_checksum(payload, algorithm):\n    return hashlib.new(algorithm, payload).hexdigest()\n"
OTHER = "def main():\n    value = compute_checksum(payload, algorithm)\n    print(value)\n"


@pytest.fixture(scope="module")
def vocabulary(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / FILE)


@pytest.fixture
def mixer(vocabulary: Tokenizer) -> Iterator[Mixer]:
    made = Mixer(vocabulary.encode, vocabulary.token_bytes.__getitem__, vocabulary.vocab_size)
    yield made
    made.close()


def uniform(vocabulary: Tokenizer) -> Floats:
    """A model that knows nothing."""
    return np.full(vocabulary.vocab_size, -np.log(vocabulary.vocab_size), dtype=np.float32)


def written(
    mixer: Mixer, vocabulary: Tokenizer, request: CompletionRequest, tokens: int = 12, taken: int = 0, known: bool = True
) -> str:
    """Greedily. taken: how many tokens before the cursor are taken back first."""
    prompt = [vocabulary.fim.fim_middle, *vocabulary.encode(request.prefix)]
    context = prompt[: len(prompt) - taken]
    mixing = mixer.begin(request, prompt if known else context)
    start = len(context)
    for _ in range(tokens):
        context.append(int(mixing.mix(uniform(vocabulary), context).argmax()))
    return vocabulary.decode(context[start:]).decode(errors="replace")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_probabilities_sum_to_one(mixer: Mixer, vocabulary: Tokenizer, data: st.DataObject) -> None:
    texts = st.lists(st.sampled_from(["foo", "bar", "(", ")", "\n", "    ", " = ", "é", "self."]), max_size=40).map("".join)
    mixer.update("other.py", data.draw(texts))
    mixer.wait()
    request = CompletionRequest(prefix=data.draw(texts), suffix=data.draw(texts), document="a.py")
    prompt = [vocabulary.fim.fim_middle, *vocabulary.encode(request.prefix)]
    mixing = mixer.begin(request, prompt)
    context = [*prompt, *data.draw(st.lists(st.integers(0, vocabulary.vocab_size - 1), max_size=20))]
    scores = np.random.default_rng(0).normal(size=vocabulary.vocab_size) * data.draw(st.floats(0, 20))
    logprobs = (scores - np.logaddexp.reduce(scores)).astype(np.float32)
    mixed = mixing.mix(logprobs, context)
    assert mixed.dtype == np.float32 and mixed.shape == logprobs.shape
    assert np.exp(mixed.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


def test_a_file_that_repeats_itself_is_completed_from_itself(mixer: Mixer, vocabulary: Tokenizer) -> None:
    request = CompletionRequest(prefix=HELPER + "\n\n" + HELPER[:40], suffix="\n")
    assert written(mixer, vocabulary, request).startswith(HELPER[40:60])


def test_the_text_after_the_cursor_is_a_source_too(mixer: Mixer, vocabulary: Tokenizer) -> None:
    request = CompletionRequest(prefix="value = compute_check", suffix="\n\nx = 1\n\n\n" + HELPER)
    assert written(mixer, vocabulary, request).startswith("sum(payload, algorithm)")


def test_of_a_new_file_what_is_near_counts_first_and_all_of_it_soon(vocabulary: Tokenizer) -> None:
    encoded = 0

    def encode(text: str) -> list[int]:
        nonlocal encoded
        encoded += len(text)
        return vocabulary.encode(text)

    mixer = Mixer(encode, vocabulary.token_bytes.__getitem__, vocabulary.vocab_size)
    far = "".join(f"value_{number} = {number}\n" for number in range(4000))
    requests = [
        CompletionRequest(prefix=f"{HELPER}{far}value = compute_check", suffix=f"\n{far}", document=document)
        for document in ("a.py", None)
    ]
    assert not written(mixer, vocabulary, requests[0]).startswith("sum(payload")
    assert encoded < 3 * FIRST_CHARS
    for _ in range(4):
        mixer.begin(requests[0], [])
    assert written(mixer, vocabulary, requests[0]).startswith("sum(payload")
    assert written(mixer, vocabulary, requests[1]).startswith("sum(payload"), "of what does not come again there is no later"
    mixer.close()


@pytest.mark.parametrize("cut", range(21, 60, 3))
def test_the_project_completes_wherever_the_cursor_cuts_a_token(mixer: Mixer, vocabulary: Tokenizer, cut: int) -> None:
    mixer.update("helper.py", HELPER)
    mixer.wait()
    assert HELPER[cut:].startswith(written(mixer, vocabulary, CompletionRequest(prefix=HELPER[:cut]), 4))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("taken", [1, 2])
def test_tokens_that_are_taken_back_are_written_whole(mixer: Mixer, vocabulary: Tokenizer, taken: int, known: bool) -> None:
    """known: whether they were in the prompt that the mixture was told of."""
    mixer.update("other.py", OTHER)
    mixer.wait()
    prefix = OTHER[: OTHER.index("sum")]
    back = vocabulary.decode(vocabulary.encode(prefix)[-taken:]).decode()
    text = written(mixer, vocabulary, CompletionRequest(prefix=prefix), taken=taken, known=known)
    assert (prefix[: -len(back)] + text).startswith(OTHER[:45])


def test_what_is_removed_or_changed_is_not_recalled(mixer: Mixer, vocabulary: Tokenizer) -> None:
    request = CompletionRequest(prefix="value = compute_check")
    nothing, empty = written(mixer, vocabulary, request), mixer.nbytes
    mixer.update("other.py", HELPER)
    mixer.wait()
    assert written(mixer, vocabulary, request).startswith("sum")
    mixer.update("other.py", HELPER.replace("checksum", "checklist"))
    mixer.wait()
    assert written(mixer, vocabulary, request).startswith("list")
    mixer.remove("other.py")
    mixer.wait()
    assert written(mixer, vocabulary, request) == nothing
    assert (mixer.tokens, mixer.nbytes) == (0, empty)


def test_the_open_file_as_it_was_on_disk_is_left_out(mixer: Mixer, vocabulary: Tokenizer) -> None:
    mixer.update("src/a.py", HELPER)
    mixer.wait()
    request = CompletionRequest(prefix="value = compute_check")
    assert written(mixer, vocabulary, request).startswith("sum")
    for own in ({"document": "src/a.py"}, {"document": "file:///src/a.py", "path": "src/a.py"}):
        changed = CompletionRequest(prefix="value = compute_check", **own)  # type: ignore[arg-type]
        assert not written(mixer, vocabulary, changed).startswith("sum")


@pytest.mark.parametrize("after", [")\n    first = transform(first_argument)\n", "first_argument)\n"])
def test_the_text_right_after_the_cursor_is_not_written_again(mixer: Mixer, vocabulary: Tokenizer, after: str) -> None:
    request = CompletionRequest(prefix="def f():\n    second = 0\n    first = transform(", suffix=after)
    assert "argument" not in written(mixer, vocabulary, request)
    further = CompletionRequest(prefix=request.prefix, suffix=")\n    pass\n    first = transform(first_argument)\n")
    assert "argument" in written(mixer, vocabulary, further)


def test_files_of_the_request_are_neighbours(mixer: Mixer, vocabulary: Tokenizer) -> None:
    request = CompletionRequest(prefix="value = compute_check", files=(SourceFile(path="other.py", text=HELPER),))
    mixer.begin(request, [])
    mixer.wait()
    assert written(mixer, vocabulary, request).startswith("sum")


def test_a_neighbour_counts_more_than_the_workspace_if_the_weights_say_so(vocabulary: Tokenizer, tmp_path: Path) -> None:
    weights = yaml.safe_load(FITTED.read_text(encoding="utf-8"))
    weights["default"]["kernel"]["sources"] = [0.0, -2.0, -3.0]
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(weights), encoding="utf-8")
    pieces = vocabulary.token_bytes.__getitem__
    mixer = Mixer(vocabulary.encode, pieces, vocabulary.vocab_size, weights=tmp_path / "weights.yaml")
    mixer.update("near.py", HELPER, Kind.NEIGHBOUR)
    mixer.update("far.py", HELPER.replace("checksum", "checklist"), Kind.WORKSPACE)
    mixer.wait()
    assert written(mixer, vocabulary, CompletionRequest(prefix="value = compute_check")).startswith("sum")
    mixer.update("near.py", HELPER, Kind.WORKSPACE)
    mixer.update("far.py", HELPER.replace("checksum", "checklist"), Kind.NEIGHBOUR)
    mixer.wait()
    assert written(mixer, vocabulary, CompletionRequest(prefix="value = compute_check")).startswith("list")
    mixer.close()


def test_drafts_are_what_stands_in_the_project(mixer: Mixer, vocabulary: Tokenizer) -> None:
    mixer.update("other.py", HELPER * 3)
    mixer.wait()
    prefix = HELPER[: HELPER.index("payload")]
    prompt = vocabulary.encode(prefix)
    mixing = mixer.begin(CompletionRequest(prefix=prefix), prompt)
    draft = mixing.draft(prompt, 5)
    assert 0 < len(draft) <= 5
    assert HELPER.startswith(prefix + vocabulary.decode(draft).decode())
    unknown = vocabulary.encode("qqq zzz")
    assert mixer.begin(CompletionRequest(prefix="qqq zzz"), unknown).draft(unknown, 5) == []


def test_memory_is_bounded_and_what_changed_last_is_kept(vocabulary: Tokenizer) -> None:
    size = len(vocabulary.encode(HELPER))
    mixer = Mixer(vocabulary.encode, vocabulary.token_bytes.__getitem__, vocabulary.vocab_size, max_tokens=3 * size)
    try:
        mixer.update("near.py", HELPER, Kind.NEIGHBOUR)
        for index in range(20):
            mixer.update(f"{index}.py", HELPER.replace("checksum", "check" + "abcdefghijklmnopqrst"[index]))
            mixer.wait()
            assert mixer.tokens <= 3 * size and mixer.nbytes == 24 * mixer.tokens
        request = CompletionRequest(prefix="value = compute_check")
        assert written(mixer, vocabulary, request).startswith(("sum", "t"))
        assert mixer.tokens > size
    finally:
        mixer.close()


def test_a_vocabulary_that_is_too_large_is_refused(vocabulary: Tokenizer) -> None:
    with pytest.raises(ValueError, match="larger than"):
        Mixer(vocabulary.encode, vocabulary.token_bytes.__getitem__, MAX_VOCAB + 1)


def test_a_document_that_cannot_be_tokenised_hurts_no_other(vocabulary: Tokenizer) -> None:
    def encode(text: str) -> list[int]:
        if "poison" in text:
            raise RuntimeError("no tokens for this")
        return vocabulary.encode(text)

    mixer = Mixer(encode, vocabulary.token_bytes.__getitem__, vocabulary.vocab_size)
    try:
        mixer.update("bad.py", "poison")
        mixer.update("good.py", HELPER)
        mixer.wait()
        assert written(mixer, vocabulary, CompletionRequest(prefix="value = compute_check")).startswith("sum")
    finally:
        mixer.close()


def test_the_project_may_change_while_it_is_read(mixer: Mixer, vocabulary: Tokenizer) -> None:
    mixer.update("stays.py", HELPER)
    mixer.wait()
    stop = threading.Event()

    def change() -> None:
        index = 0
        while not stop.is_set():
            index += 1
            mixer.update(f"{index % 7}.py", OTHER * (index % 5))
            mixer.remove(f"{(index + 3) % 7}.py")
            mixer.wait()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            assert written(mixer, vocabulary, CompletionRequest(prefix="value = compute_check"), 3).startswith("sum")
    finally:
        stop.set()
        thread.join()
    mixer.wait()
    assert "stays.py" in mixer._project.snapshot.tags
