"""`codelm scan` as a user runs it."""

import json
import os
import random
import socket
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOKEN = "ghp_" + "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=36))


def codelm(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "scan", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two files with a secret, one with an address, one clean."""
    folder = tmp_path / "project"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "a.py").write_text(f'x = 1\ntoken = "{TOKEN}"\n')
    (folder / "sub dir" / "b.env").write_text(f"\n\nGITHUB={TOKEN}\n")
    (folder / "c.py").write_text("# Author: Jane Smith <jane@smith.net>\nhost = '93.184.216.34'\n")
    (folder / "clean.py").write_text("token = read_token()\n")
    return folder


def test_findings_in_a_table(project: Path) -> None:
    result = codelm(".", folder=project)
    assert result.returncode == 1, result.stderr
    assert "a.py:2:10" in result.stdout
    assert "sub dir/b.env:3:8" in result.stdout
    assert "github-token" in result.stdout
    assert "2 findings in 2 of 4 files" in result.stdout
    assert TOKEN not in result.stdout + result.stderr
    assert "ghp_… (40 characters)" in result.stdout


def test_clean_is_exit_code_0(project: Path) -> None:
    result = codelm("clean.py", folder=project)
    assert (result.returncode, result.stdout) == (0, "no findings in 1 file\n")


def test_personal_data_on_request(project: Path) -> None:
    assert codelm("c.py", folder=project).returncode == 0
    result = codelm("c.py", "--pii", "--format", "json", folder=project)
    assert result.returncode == 1
    found = json.loads(result.stdout)["findings"]
    assert [(one["rule"], one["line"], one["column"]) for one in found] == [
        ("name", 1, 11),
        ("email", 1, 23),
        ("ip-address", 2, 9),
    ]


def test_inline_allow(project: Path) -> None:
    for mark in ("codelm:allow", "gitleaks:allow"):
        (project / "a.py").write_text(f'token = "{TOKEN}"  # {mark}\n')
        assert codelm("a.py", folder=project).returncode == 0


def test_baseline_hides_what_is_known_wherever_it_moves(project: Path) -> None:
    first = codelm(".", "--format", "json", "--output", "../known.json", folder=project)
    assert (first.returncode, first.stdout) == (1, "")
    assert TOKEN not in (project.parent / "known.json").read_text()
    (project / "a.py").write_text(f'# moved\n\n\ntoken = "{TOKEN}"\n')
    assert codelm(".", "--baseline", "../known.json", folder=project).returncode == 0
    other = TOKEN[::-1][:36]
    (project / "a.py").write_text(f'token = "{TOKEN}"\nother = "ghp_{other}"\n')
    again = codelm(".", "--baseline", "../known.json", folder=project)
    assert again.returncode == 1
    assert "1 finding in 1 of 4 files" in again.stdout


def test_sarif(project: Path) -> None:
    (project / "key.py").write_text(
        "K = '''-----BEGIN PRIVATE KEY-----\n" + f"{TOKEN[4:]}{TOKEN[4:]}\n" * 3 + "-----END PRIVATE KEY-----'''\n"
    )
    result = codelm(".", "--format", "sarif", "--output", "../scan.sarif", folder=project)
    assert result.returncode == 1
    text = (project.parent / "scan.sarif").read_text()
    assert TOKEN not in text
    log = json.loads(text)
    check(log, SARIF)
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for one in run["results"]:
        assert rules[one["ruleIndex"]] == one["ruleId"]
    places = {
        one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]: one["locations"][0]["physicalLocation"]["region"]
        for one in run["results"]
    }
    assert places["sub%20dir/b.env"] == {"startLine": 3, "startColumn": 8, "endLine": 3, "endColumn": 48}
    assert places["key.py"] == {"startLine": 2, "startColumn": 1, "endLine": 4, "endColumn": 73}


SARIF: Any = {
    "version": "2.1.0",
    "$schema": str,
    "runs": [
        {
            "tool": {
                "driver": {"name": str, "semanticVersion": str, "rules": [{"id": str, "shortDescription": {"text": str}}]}
            },
            "columnKind": "unicodeCodePoints",
            "results": [
                {
                    "ruleId": str,
                    "ruleIndex": int,
                    "level": "error",
                    "message": {"text": str},
                    "locations": [
                        {
                            "physicalLocation": {
                                "artifactLocation": {"uri": str},
                                "region": {"startLine": int, "startColumn": int, "endLine": int, "endColumn": int},
                            }
                        }
                    ],
                    "partialFingerprints": dict,
                }
            ],
        }
    ],
}
"""What the OASIS schema of SARIF 2.1.0 asks of the properties that we write."""


def check(value: Any, form: Any) -> None:
    """Whether a value has a form: no property more or less."""
    if isinstance(form, dict):
        assert value.keys() == form.keys()
        for key in form:
            check(value[key], form[key])
    elif isinstance(form, list):
        assert value
        for one in value:
            check(one, form[0])
    elif isinstance(form, type):
        assert isinstance(value, form)
        assert form is not int or value >= 0
    else:
        assert value == form


def test_sarif_of_nothing_is_whole(project: Path) -> None:
    log = json.loads(codelm("clean.py", "--format", "sarif", folder=project).stdout)
    assert log["runs"][0]["results"] == log["runs"][0]["tool"]["driver"]["rules"] == []


def test_what_is_no_text_is_skipped_with_a_reason(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "binary.bin").write_bytes(f"\0{TOKEN}".encode())
    (project / "large.txt").write_text(f"{TOKEN}\n" + "x" * 5_000_001)
    (project / "loop").symlink_to(project)
    (project / "gone").symlink_to(project / "nowhere")
    (project / ".git").mkdir()
    (project / ".git" / "config").write_text(TOKEN)
    os.mkfifo(project / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(project)  # the name of a socket must be short
        server.bind("socket")
    result = codelm(".", folder=project)
    assert "2 findings in 2 of 4 files" in result.stdout
    assert "skipped: binary" in result.stderr
    assert "large.txt is larger than 5 MB" in result.stderr
    assert "not a file (a device, socket or pipe) (2 files)" in result.stderr


def test_odd_encodings_and_names(project: Path) -> None:
    (project / "utf16.txt").write_bytes(f"é {TOKEN}".encode("utf-16"))
    (project / "latin.txt").write_bytes(f"é {TOKEN}".encode("latin-1"))
    (project / "a\nb.txt").write_text(TOKEN)
    Path(os.fsdecode(os.fsencode(project) + b"/\xff.txt")).write_text(TOKEN)
    for form in ("text", "json", "sarif"):
        result = codelm(".", "--format", form, folder=project)
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
    assert "6 findings in 6 of 8 files" in result.stderr
    assert "a\\nb.txt:1:1" in codelm(".", folder=project).stdout


def test_user_errors_are_one_line_and_exit_code_2(project: Path) -> None:
    (project / "no.json").write_text('{"findings": [3]}')
    results = [
        codelm("none", folder=project),
        codelm(".", "--baseline", "none.json", folder=project),
        codelm(".", "--baseline", "no.json", folder=project),
        codelm(".", "--output", "no/such/file", folder=project),
    ]
    for result in results:
        assert result.returncode == 2, result.stdout
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
    assert codelm(folder=project).returncode == 2
    assert codelm(".", "--format", "xml", folder=project).returncode == 2


def test_help_has_examples(project: Path) -> None:
    assert "codelm scan src --format json" in codelm("--help", folder=project).stdout
