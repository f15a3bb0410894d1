"""Secrets: speed and false hits on clean files, and how many of planted secrets are replaced.

    python benchmarks/scan_secrets.py [--clean 10000] [--planted 300] [--peer PYTHON]

Clean files are the installed Python's standard library and packages; what is found there is printed, to be looked at.
Secrets are made from what their issuers publish of the formats, not from our rules, and planted into such files in many
forms. With --peer, the Python of an environment that has detect-secrets, that scans the same files. Prints one JSON object
as its last line.
"""

import argparse
import base64
import json
import random
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from codelm.config.corpus import Redaction
from codelm.corpus.secrets import redact, scan

HEX, UPPER, LOWER, DIGITS = "0123456789abcdef", string.ascii_uppercase, string.ascii_lowercase, string.digits
ALNUM = string.ascii_letters + DIGITS
URL_SAFE = ALNUM + "-_"
Maker = Callable[[random.Random], str]


def text(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def bytes64(rng: random.Random, length: int) -> str:
    return base64.b64encode(rng.randbytes(length)).decode()


def token64(rng: random.Random, content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def guid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def password(rng: random.Random) -> str:
    return text(rng, ALNUM + "!#^*~", rng.randint(12, 24))


def pem(rng: random.Random) -> str:
    body = bytes64(rng, 600)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(lines)


# kind → the secret. These show by themselves what they are and get a name that says nothing.
PLAIN: dict[str, Maker] = {
    "aws access key id": lambda r: "AKIA" + text(r, UPPER + "234567", 16),
    "github classic": lambda r: "ghp_" + text(r, ALNUM, 36),
    "github app": lambda r: "ghs_" + text(r, ALNUM, 36),
    "github fine-grained": lambda r: f"github_pat_{text(r, ALNUM, 22)}_{text(r, ALNUM, 59)}",
    "gitlab": lambda r: "glpat-" + text(r, URL_SAFE, 20),
    "slack bot": lambda r: f"xoxb-{text(r, DIGITS, 12)}-{text(r, DIGITS, 13)}-{text(r, ALNUM, 24)}",
    "slack webhook": lambda r: (
        f"https://hooks.slack.com/services/T{text(r, UPPER + DIGITS, 8)}/B{text(r, UPPER + DIGITS, 10)}/{text(r, ALNUM, 24)}"
    ),
    "stripe live": lambda r: "sk_live_" + text(r, ALNUM, 24),
    "stripe restricted": lambda r: "rk_live_" + text(r, ALNUM, 99),
    "google api": lambda r: "AIzaSy" + text(r, URL_SAFE, 33),
    "google oauth client": lambda r: "GOCSPX-" + text(r, URL_SAFE, 28),
    "openai": lambda r: f"sk-{text(r, ALNUM, 20)}T3BlbkFJ{text(r, ALNUM, 20)}",
    "openai project": lambda r: f"sk-proj-{text(r, URL_SAFE, 74)}T3BlbkFJ{text(r, URL_SAFE, 74)}",
    "anthropic": lambda r: f"sk-ant-api03-{text(r, URL_SAFE, 93)}AA",
    "hugging face": lambda r: "hf_" + text(r, string.ascii_letters, 34),
    "npm": lambda r: "npm_" + text(r, ALNUM, 36),
    "pypi": lambda r: "pypi-AgEIcHlwaS5vcmcC" + text(r, URL_SAFE, 140),
    "sendgrid": lambda r: f"SG.{text(r, URL_SAFE, 22)}.{text(r, URL_SAFE, 43)}",
    "twilio key": lambda r: "SK" + text(r, HEX, 32),
    "mailgun": lambda r: "key-" + text(r, HEX, 32),
    "mailchimp": lambda r: f"{text(r, HEX, 32)}-us{r.randint(1, 21)}",
    "telegram": lambda r: f"{r.randint(10**8, 10**10 - 1)}:AA{text(r, URL_SAFE, 33)}",
    "shopify": lambda r: "shpat_" + text(r, HEX, 32),
    "digitalocean": lambda r: "dop_v1_" + text(r, HEX, 64),
    "databricks": lambda r: "dapi" + text(r, HEX, 32),
    "linear": lambda r: "lin_api_" + text(r, ALNUM, 40),
    "grafana": lambda r: f"glsa_{text(r, ALNUM, 32)}_{text(r, HEX, 8)}",
    "vault": lambda r: "hvs." + text(r, URL_SAFE, 95),
    "terraform": lambda r: f"{text(r, ALNUM, 14)}.atlasv1.{text(r, ALNUM, 67)}",
    "doppler": lambda r: "dp.pt." + text(r, ALNUM, 43),
    "docker": lambda r: "dckr_pat_" + text(r, URL_SAFE, 27),
    "rubygems": lambda r: "rubygems_" + text(r, HEX, 48),
    "nuget": lambda r: "oy2" + text(r, LOWER + DIGITS, 43),
    "postman": lambda r: f"PMAK-{text(r, HEX, 24)}-{text(r, HEX, 34)}",
    "new relic": lambda r: "NRAK-" + text(r, UPPER + DIGITS, 27),
    "atlassian": lambda r: "ATATT3xFfGF0" + text(r, URL_SAFE, 171) + "=" + text(r, "0123456789ABCDEF", 8),
    "square": lambda r: "sq0atp-" + text(r, URL_SAFE, 22),
    "age": lambda r: "AGE-SECRET-KEY-1" + text(r, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "json web token": lambda r: (
        f"{token64(r, {'alg': 'HS256', 'typ': 'JWT'})}.{token64(r, {'sub': text(r, DIGITS, 10), 'iat': 1516239022})}."
        + text(r, URL_SAFE, 43)
    ),
}
# kind → the name that it is assigned to, the secret
NAMED: dict[str, tuple[str, Maker]] = {
    "aws secret": ("aws_secret_access_key", lambda r: bytes64(r, 30)),
    "azure storage": ("azure_storage_account_key", lambda r: bytes64(r, 64)),
    "twilio auth token": ("twilio_auth_token", lambda r: text(r, HEX, 32)),
    "heroku": ("heroku_api_key", guid),
    "cloudflare": ("cloudflare_api_token", lambda r: text(r, URL_SAFE, 40)),
    "fastly": ("fastly_api_token", lambda r: text(r, URL_SAFE, 32)),
    "datadog": ("datadog_api_key", lambda r: text(r, HEX, 32)),
    "algolia": ("algolia_admin_key", lambda r: text(r, HEX, 32)),
    "okta": ("okta_api_token", lambda r: "00" + text(r, URL_SAFE, 40)),
    "discord": ("discord_token", lambda r: f"M{text(r, ALNUM, 23)}.{text(r, ALNUM, 6)}.{text(r, URL_SAFE, 27)}"),
    "some api key": ("api_key", lambda r: text(r, ALNUM, r.randint(20, 40))),
    "some hex token": ("auth_token", lambda r: text(r, HEX, r.choice([32, 40, 64]))),
    "some client secret": ("client_secret", lambda r: text(r, URL_SAFE, r.randint(24, 48))),
    "some password": ("db_password", password),
}
# kind → the lines around {}, the secret
FRAMED: dict[str, tuple[list[str], Maker]] = {
    "private key": (
        [
            'KEY = """-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n"""',
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
        ],
        pem,
    ),
    "url with password": (
        ['DATABASE = "postgresql://shop:{}@db.shop.net:5432/orders"', "REDIS_URL=redis://:{}@cache.shop.net:6379/0"],
        lambda r: text(r, ALNUM, r.randint(14, 24)),
    ),
    "connection string": (
        ['db = "Server=tcp:db.shop.net,1433;Database=orders;User ID=shop;Password={};Encrypt=True;"'],
        password,
    ),
    "basic authentication": (
        ['headers = {{"Authorization": "Basic {}"}}', "curl -H 'Authorization: Basic {}' https://shop.net"],
        lambda r: base64.b64encode(f"shop:{password(r)}".encode()).decode(),
    ),
    "bearer authentication": (['headers = {{"Authorization": "Bearer {}"}}'], lambda r: text(r, ALNUM, 40)),
    "azure connection string": (
        ['"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={};EndpointSuffix=core.windows.net"'],
        lambda r: bytes64(r, 64),
    ),
}
PLACES = {
    "assignment": '{NAME} = "{}"',
    "dictionary": 'settings = {{"debug": True, "{name}": "{}"}}',
    "argument": "client = connect('shop.net', {name}='{}')",
    "comment": "# {name}: {}",
    "yaml": "{name}: {}",
    "json": '  "{name}": "{}",',
    "environment": "export {NAME}={}",
    "javascript": "const {camel} = '{}';",
}
NEUTRAL = ["value", "setting", "item", "service", "upstream"]


def planted(rng: random.Random, number: int) -> list[tuple[str, str, str]]:
    """Kind, secret, and the line or lines with it; every kind as often as any other, in random places."""
    kinds = [*PLAIN, *NAMED, *FRAMED]
    made = []
    for index in range(number):
        kind = kinds[index % len(kinds)]
        if kind in FRAMED:
            frames, maker = FRAMED[kind]
            secret = maker(rng)
            made.append((kind, secret, rng.choice(frames).format(secret)))
            continue
        name, maker = NAMED[kind] if kind in NAMED else (rng.choice(NEUTRAL), PLAIN[kind])
        secret = maker(rng)
        place = "https://shop.net/v1?q={}&page=2" if kind in PLAIN and rng.random() < 0.12 else PLACES[rng.choice(list(PLACES))]
        first, *rest = name.split("_")
        camel = first + "".join(part.title() for part in rest)
        made.append((kind, secret, place.format(secret, name=name, NAME=name.upper(), camel=camel)))
    return made


def clean_files(number: int) -> list[tuple[Path, str]]:
    """Python files of the installation in order of their paths, evenly chosen; without tests, which hold keys."""
    roots = sorted({Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})
    paths = sorted({path for root in roots for path in root.rglob("*.py") if not {"test", "tests"} & set(path.parts)})
    found = []
    for path in paths[:: max(len(paths) // max(number, 1), 1)]:
        try:
            found.append((path, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            continue
    return found[:number]


def speed(work: Callable[[str], object], texts: list[str]) -> float:
    """MB/s of one core, the better of two rounds."""
    total = sum(len(one.encode("utf-8", "replace")) for one in texts)
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        for one in texts:
            work(one)
        best = min(best, time.process_time() - start)
    return round(total / 1e6 / best, 1)


def insert(rng: random.Random, original: str, lines: str) -> tuple[str, int]:
    """The text with lines in it, below its first third, and the number of the first of them."""
    all_lines = original.splitlines(keepends=True)
    at = rng.randint(len(all_lines) // 3 + 1, len(all_lines))
    before = "".join(all_lines[:at])
    before += "" if before.endswith("\n") else "\n"
    return before + lines + "\n" + "".join(all_lines[at:]), before.count("\n") + 1


PEER = """
import json, sys, time
from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
answer = {}
start = time.process_time()
with default_settings():
    for path in sys.stdin.read().split("\\n"):
        found = SecretsCollection()
        found.scan_file(path)
        answer[path] = sorted({secret.line_number for _, secret in found})
json.dump({"lines": answer, "seconds": time.process_time() - start}, sys.stdout)
"""


def peer(python: str, folder: Path, files: list[tuple[str, set[int]]], clean: list[str]) -> dict[str, float]:
    """What detect-secrets with its own settings finds in the files with planted lines, and in clean ones."""
    paths = []
    for index, content in enumerate([content for content, _ in files] + clean):
        paths.append(folder / f"{index}.py")
        paths[-1].write_text(content)
    command = [python, "-c", PEER]
    result = subprocess.run(command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)
    found = [set(answer["lines"][str(path)]) for path in paths]
    size = sum(path.stat().st_size for path in paths)
    return {
        "mb_per_s": round(size / 1e6 / answer["seconds"], 2),
        "recall": round(sum(bool(a & b) for a, (_, b) in zip(found, files, strict=False)) / len(files), 4),
        "false_hits_per_1000_files": round(1000 * sum(map(len, found[len(files) :])) / max(len(clean), 1), 2),
        "clean_files": len(clean),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=10_000, metavar="FILES")
    parser.add_argument("--planted", type=int, default=300, metavar="SECRETS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", metavar="PYTHON")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    clean = clean_files(options.clean)
    texts = [content for _, content in clean]
    scan("token")  # compiles and loads
    hits = [(path, content, finding) for path, content in clean for finding in scan(content)]
    for path, content, finding in hits:
        secret = content[finding.start : finding.end]
        print(f"hit: {path}:{finding.line} {finding.rule} {secret[:6]}… ({len(secret)} characters)")

    config = Redaction()
    hosts = rng.sample([content for content in texts if 3_000 < len(content) < 200_000], options.planted)
    files, missed, found = [], [], 0
    for host, (kind, secret, lines) in zip(hosts, planted(rng, options.planted), strict=True):
        content, line = insert(rng, host, lines)
        files.append((content, set(range(line, line + lines.count("\n") + 1))))
        kept = redact(content, config).text
        leaked = any(part in kept for part in secret.split("\n"))
        found += any(finding.line in files[-1][1] for finding in scan(content))
        if leaked:
            missed.append(kind)
            print(f"missed: {kind}: {lines[:160]!r}")
    result = {
        "clean_files": len(clean),
        "clean_mb": round(sum(map(len, texts)) / 1e6, 1),
        "hits_in_clean_files": len(hits),
        "hits_per_1000_files": round(1000 * len(hits) / max(len(clean), 1), 3),
        "scan_mb_per_s": speed(scan, texts),
        "redact_mb_per_s": speed(lambda one: redact(one, config), texts),
        "planted": options.planted,
        "planted_kinds": min(len(PLAIN) + len(NAMED) + len(FRAMED), options.planted),
        "redacted_share": round(1 - len(missed) / options.planted, 4),
        "missed": dict(Counter(missed)),
    }
    if options.peer:
        result["same_measure"] = {
            "recall": round(found / options.planted, 4),
            "mb_per_s": speed(scan, [content for content, _ in files] + texts[: options.planted]),
        }
        with tempfile.TemporaryDirectory() as folder:
            result["detect_secrets"] = peer(options.peer, Path(folder), files, texts[: options.planted])
    print(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
