"""Where the default model is, what is known of it, and whether it is whole."""

from pathlib import Path

from codelm.errors import UserError
from codelm.stage import MANIFEST, Manifest, file_sha256

BUNDLE = Path(__file__).parent / "bundle"
"""A GGUF with its model card, the record of its training, and the notices of the code that it was trained on."""
NAME = "default"
"""What commands that want a model call this one by."""
FIX = "name a model of your own (`codelm quickstart` makes one), or install codelm again"


def default_model(bundle: Path | None = None) -> Path:
    """The GGUF, after a look at its checksum. bundle: another folder than BUNDLE.

    Raises UserError if there is none, or if it is damaged.
    """
    folder = bundle or BUNDLE
    manifest = about(folder)
    if manifest is None:
        raise UserError("this installation of codelm has no default model", FIX)
    path = folder / str(manifest.counts["model"])
    try:
        whole = file_sha256(path) == manifest.outputs[path.name]
    except OSError:
        whole = False
    if not whole:
        raise UserError(f"the default model {path} is damaged", FIX)
    return path


def named(path: Path) -> Path:
    """The default model for the path NAME, unless there is a file or folder of that name; any other path as it is.

    Raises UserError as `default_model` does.
    """
    return default_model() if path == Path(NAME) and not path.exists() else path


def about(bundle: Path | None = None) -> Manifest | None:
    """The manifest of the bundle, None if there is no bundle.

    Its counts: "model" (the GGUF's file name), "bytes", "parameters", "tokens" that it was trained on in all, "bits_per_byte",
    "exact_match" and "whole_line_match" on held-out files. Raises UserError if it cannot be read.
    """
    folder = bundle or BUNDLE
    if not (folder / MANIFEST).exists():
        return None
    try:
        manifest = Manifest.read(folder)
        manifest.outputs[manifest.counts["model"]]
    except (UserError, KeyError):
        raise UserError(f"the default model's {folder / MANIFEST} is damaged", FIX) from None
    return manifest
