"""The metadata that a file carries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelm.export.bundle import BundleMetadata
from codelm.fim import Order

METADATA = st.builds(
    BundleMetadata,
    name=st.text(),
    codelm_version=st.text(),
    context_length=st.integers(1, 1 << 20),
    fim_order=st.sampled_from(Order),
    tokenizer_sha256=st.text(),
    corpus_fingerprint=st.text(),
    trained_tokens=st.integers(0),
    repo_context=st.booleans(),
    bits_per_byte=st.none() | st.floats(0, 100),
    exact_match=st.none() | st.floats(0, 1),
    draft=st.none() | st.text(),
)


@given(METADATA)
def test_what_is_written_is_read(metadata: BundleMetadata) -> None:
    written = metadata.to_gguf()
    assert all(key.startswith("codelm.") for key in written)
    assert all(isinstance(value, str) for value in written.values())
    assert BundleMetadata.from_gguf(written | {"general.name": "x"}) == metadata


@given(METADATA)
def test_keys_of_a_newer_version_are_no_obstacle(metadata: BundleMetadata) -> None:
    assert BundleMetadata.from_gguf(metadata.to_gguf() | {"codelm.mood": "good"}) == metadata


def test_a_model_of_an_older_version_knows_no_repositories() -> None:
    older = BundleMetadata(
        name="x", codelm_version="0", context_length=1, fim_order=Order.SPM, tokenizer_sha256="", corpus_fingerprint=""
    ).to_gguf()
    del older["codelm.repo_context"]
    assert BundleMetadata.from_gguf(older).repo_context is False


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"codelm\.context_length: Field required"):
        BundleMetadata.from_gguf({"codelm.name": "x"})
    with pytest.raises(ValueError, match=r"codelm\.fim_order: Input should be 'psm' or 'spm'"):
        BundleMetadata.from_gguf({"codelm.fim_order": "mps"})
