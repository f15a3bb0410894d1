"""Secrets: every rule against its own examples, placement, redaction, hostile texts."""

import ast
import json
import random
import re
import subprocess
import sys
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codelm.config.corpus import Redaction
from codelm.corpus.secrets import Rule, entropy, looks_random, redact, rules, scan

ROOT = Path(__file__).parents[3]
spec = spec_from_file_location("secret_examples", Path(__file__).with_name("secret_examples.py"))
assert spec
assert spec.loader
examples = module_from_spec(spec)
spec.loader.exec_module(examples)
filled = examples.filled

DATA = (files("codelm.corpus") / "data" / "secrets.yaml").read_text()
LISTED = yaml.safe_load(DATA)
SECRETS_ONLY = Redaction(emails=False, ip_addresses=False, names=False)
GITHUB = "ghp_{base62:36}"


def made(template: str, seed: int = 0) -> str:
    """A template filled in; some chances are poor in entropy, or hold a placeholder, so a seed is a seed for several tries."""
    return str(filled(template, random.Random(seed)))


@pytest.mark.parametrize("listed", LISTED, ids=[rule["id"] for rule in LISTED])
def test_every_rule_finds_its_hits_and_not_its_misses(listed: dict[str, list[str]]) -> None:
    for template in listed["hits"]:
        found = [any(one.rule == listed["id"] for one in scan(made(template, seed))) for seed in range(12)]
        assert sum(found) >= 11, f"{template}: {found}"
    for template in listed["misses"]:
        for seed in range(5):
            text = made(template, seed)
            assert all(one.rule != listed["id"] for one in scan(text)), text


@pytest.mark.parametrize("rule", rules(), ids=[rule.id for rule in rules()])
def test_patterns_are_bounded(rule: Rule) -> None:
    assert re._parser.parse(rule.pattern).getwidth()[1] < 50_000  # type: ignore[attr-defined]
    assert all(keyword == keyword.lower() for keyword in rule.keywords)


def test_the_rules() -> None:
    assert len(rules()) >= 60
    assert len({rule.id for rule in rules()}) == len(rules())
    assert not scan(DATA), "the rules' examples are no secrets"
    assert all(rule["hits"] and rule["misses"] for rule in LISTED)


def test_places() -> None:
    secret = made(GITHUB)
    text = f'x = 1\nä = "İ€"; t = "{secret}"\n\n# again {secret}\n'
    first, second = scan(text)
    assert text[first.start : first.end] == text[second.start : second.end] == secret
    assert (first.line, first.column) == (2, text.splitlines()[1].index(secret) + 1)
    assert (second.line, second.column) == (4, 9)
    assert first.rule == "github-token"
    assert first.entropy == pytest.approx(entropy(secret))


def test_the_more_special_rule_names_a_secret() -> None:
    assert [one.rule for one in scan(f'password = "{made(GITHUB)}"')] == ["github-token"]


@pytest.mark.parametrize(
    "value",
    [
        "correct-horse-battery-staple",
        "getAccessTokenOfUser2",
        "my_service_v2_token_name",
        "org.apache.v2.Token",
        "2024-01-02",
    ],
)
def test_names_do_not_look_random(value: str) -> None:
    assert not looks_random(value)


@pytest.mark.parametrize("alphabet", ["hex", "base36", "base62", "base64", "url"])
def test_chance_looks_random(alphabet: str) -> None:
    found = [looks_random(made(f"{{{alphabet}:32}}", seed)) for seed in range(200)]
    assert sum(found) >= (170 if alphabet == "base36" else 190)  # letters and digits of base36 change least


def test_entropy() -> None:
    assert entropy("") == 0
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2


# --- redaction


def test_same_value_same_replacement_and_code_still_parses() -> None:
    one, other, password = made(GITHUB, 1), made(GITHUB, 2), made("{base62:20}", 3)
    code = (
        f'a = "{one}"\nb = {{"token": "{other}", "old": \'{one}\'}}\nurl = f"https://me:{password}@shop.net/{{a}}"\n'
        f"# the password is {password}\n"
    )
    redacted = redact(code, SECRETS_ONLY)
    assert not any(value in redacted.text for value in (one, other, password))
    names: dict[str, object] = {}
    exec(compile(ast.parse(redacted.text), "redacted", "exec"), names)
    assert names["a"] == names["b"]["old"] != names["b"]["token"]  # type: ignore[index]
    assert redacted.found == {"github-token": 3, "url-password": 2}
    assert redacted.text.count("\n") == code.count("\n")
    assert redact(code, SECRETS_ONLY) == redacted
    assert redact(redacted.text, SECRETS_ONLY) == (redacted.text, {})


@pytest.mark.parametrize(
    "form", ["export TOKEN={}", "token: {}", "<token>{}</token>", "https://x:{}@shop.net/a", "'{}'", '["{}"]']
)
def test_what_stands_around_stays(form: str) -> None:
    assert redact(form.format(made(GITHUB)), SECRETS_ONLY).text == form.format("REDACTED_GITHUB_TOKEN_1")


def test_a_replacement_that_is_there_already_is_not_used_again() -> None:
    text = f'a = "REDACTED_GITHUB_TOKEN_1"\nb = "{made(GITHUB)}"\n'
    assert redact(text, SECRETS_ONLY).text == 'a = "REDACTED_GITHUB_TOKEN_1"\nb = "REDACTED_GITHUB_TOKEN_2"\n'


def test_private_keys_keep_their_frame() -> None:
    body = made("{base64:64}\n{base64:64}\n{base64:24}")
    frame = '"""-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----"""\n'
    assert redact(frame.format(body), SECRETS_ONLY).text == frame.format("REDACTED_PRIVATE_KEY_1")
    pieces = '"-----BEGIN EC PRIVATE KEY-----\\n"\n"{}\\n"\n"-----END EC PRIVATE KEY-----"'.format(
        body.replace("\n", '\\n"\n"')
    )
    kept = redact(pieces, SECRETS_ONLY).text
    ast.literal_eval(f"({kept})")
    assert not any(line in kept for line in body.split("\n"))


def test_the_licence_header_stays() -> None:
    header = f"#!/bin/sh\n\n# Copyright (c) 2020 Jane Doe <jane@doe.net> {made(GITHUB)}\n# Licensed under the MIT License\n"
    code = f"\n# Author: Jane Doe <jane@doe.net>\nt = '{made(GITHUB)}'\n"
    redacted = redact(header + code, Redaction())
    assert redacted.text == header + "\n# Author: Author 1 <user1@example.com>\nt = 'REDACTED_GITHUB_TOKEN_1'\n"
    assert redacted.found == {"email": 1, "github-token": 1, "name": 1}


def test_settings_choose() -> None:
    text = f"# Author: Jane Smith <jane@smith.net>\nhost = '93.184.216.34'\nt = '{made(GITHUB)}'\n"
    nothing = Redaction(secrets=False, emails=False, ip_addresses=False, names=False)
    assert redact(text, nothing) == (text, {})
    for setting, kind in {"secrets": "github-token", "emails": "email", "ip_addresses": "ip-address", "names": "name"}.items():
        assert redact(text, nothing.model_copy(update={setting: True})).found == {kind: 1}


# --- hostile texts

HOSTILE = [
    "a",
    "token ",
    "password=",
    "password: a",
    "eyJ-",
    "eyJaaaaaaaaaa.",
    "://:",
    "://a:b@",
    "sk-",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\n" + "A" * 100,
    "curl -u a:",
    "machine a login ",
    '"auth" : ',
    "a@b.",
    "1.2.3.",
    "2001:db8:",
    "@author Jane ",
    "Author: A, ",
    "# ",
    "/* copyright ",
    "İ",
    "\ud800 token",
    "0" * 40 + "-us1 ",
]


@pytest.mark.timeout(20)  # quadratic ones take minutes
@pytest.mark.parametrize("unit", HOSTILE, ids=range(len(HOSTILE)))
def test_a_megabyte_of_it(unit: str) -> None:
    redact(unit * (1_000_000 // len(unit)), Redaction())


FRAGMENTS = [
    "token",
    "password",
    '="',
    "'",
    ":",
    "://u:",
    "@",
    "\n",
    " ",
    "ghp_",
    "eyJ",
    "-----BEGIN PRIVATE KEY-----",
    "\x00",
    "İ",
    "\ud83d",
]


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=40), st.from_regex(r"[A-Za-z0-9+/]{36}", fullmatch=True)))
)
@example(["\ud83d", "ghp_", "000001000001000001000012233456789ABC"])
def test_any_text(parts: list[str]) -> None:
    text = "".join(parts)
    found = scan(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    lines = text.split("\n")
    assert all(lines[one.line - 1][one.column - 1 :].startswith(text[one.start : one.end].split("\n")[0]) for one in found)
    once = redact(text, Redaction())
    assert redact(text, Redaction()) == once
    assert bool(once.found) == (once.text != text)


def test_planted_secrets_in_real_files() -> None:
    """The benchmark in small, with formats written down independently of the rules."""
    command = [sys.executable, ROOT / "benchmarks" / "scan_secrets.py", "--clean", "400", "--planted", "118"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout.splitlines()[-1])
    assert measured["planted_kinds"] >= 30
    assert measured["redacted_share"] >= 0.98, result.stdout
    assert measured["hits_in_clean_files"] <= 1, result.stdout
