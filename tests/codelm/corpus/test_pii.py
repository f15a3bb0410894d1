"""Personal data: golden cases, and what must stay."""

from pathlib import Path

import pytest
import yaml

from codelm.config.corpus import Redaction
from codelm.corpus.pii import Attribution, replacement
from codelm.corpus.secrets import redact

CASES = yaml.safe_load(Path(__file__).with_name("pii.yaml").read_text())
NOTHING = {"secrets": False, "emails": False, "ip_addresses": False, "names": False}


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases], ids=lambda value: str(value)[:40]
)
def test_golden(kind: str, case: list[str]) -> None:
    config = Redaction() if kind == "headers" else Redaction(**{**NOTHING, kind: True})
    redacted = redact(case[0], config)
    assert redacted.text == case[-1]
    assert bool(redacted.found) == (len(case) > 1)
    assert redact(redacted.text, config) == (redacted.text, {}), "what was replaced is not replaced again"


def test_many_addresses_get_as_many_replacements() -> None:
    text = "\n".join(f"{first}.184.216.{last}" for first in (93, 95) for last in range(200))
    kept = redact(text, Redaction()).text.split("\n")
    assert len(set(kept)) == 400
    assert redact("\n".join(kept), Redaction()).found == {}


def test_replacements_keep_their_kind() -> None:
    assert replacement("ip-address", "2a00:1450::1", 300) == "2001:db8::12c"
    assert replacement("ip-address", "93.184.216.34", 254) == "192.0.2.254"
    assert replacement("ip-address", "93.184.216.34", 256) == "240.0.1.0"
    assert replacement("github-token", "x", 1) is None


def test_the_header_ends_where_code_begins() -> None:
    text = "#!/usr/bin/env python\n# Copyright 2020 Jane\n# All rights reserved.\nimport os\n# Copyright\n"
    begin, end = Attribution(text).header
    assert text[begin:end] == "# Copyright 2020 Jane\n# All rights reserved.\n"
    assert Attribution("import os\n# Licensed under MIT\n").header == (0, 0)
    assert Attribution("").header == (0, 0)
