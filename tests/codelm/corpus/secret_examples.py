"""Texts that look like secrets, made by chance from templates like "AKIA{BASE32:16}": no file holds one."""

import random
import re
import string
import uuid

ALPHABETS = {
    "digits": string.digits,
    "hex": "0123456789abcdef",
    "base32": "abcdefghijklmnopqrstuvwxyz234567",
    "BASE32": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "base36": string.ascii_lowercase + string.digits,
    "BASE36": string.ascii_uppercase + string.digits,
    "base62": string.ascii_letters + string.digits,
    "base64": string.ascii_letters + string.digits + "+/",
    "url": string.ascii_letters + string.digits + "-_",
    "BECH32": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
    "x": "x",
    "X": "X",
    "a": "a",
}
HOLE = re.compile(r"\{(?:(\w+):(\d+)|uuid)\}")


def filled(template: str, rng: random.Random) -> str:
    """The template with chance in its holes, which begin and end with a letter or digit."""

    def one(hole: re.Match[str]) -> str:
        if not hole[1]:
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        alphabet = ALPHABETS[hole[1]]
        ends = [character for character in alphabet if character.isalnum()]
        middle = rng.choices(alphabet, k=max(int(hole[2]) - 2, 0))
        return "".join([rng.choice(ends), *middle, rng.choice(ends)])[: int(hole[2])]

    return HOLE.sub(one, template)
