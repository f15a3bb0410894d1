"""Writes codelm/corpus/data/license_hashes.json: hashes of the texts of usual licences, by which they are known at once.

    python scripts/hash_licenses.py

The texts are those that scancode-toolkit has for a licence: its own and the variants that its rules list as whole texts. Only
hashes are kept. A text that scancode gives to two licences is left to scancode.
"""

import json
from collections import defaultdict
from pathlib import Path

from licensedcode.models import load_licenses, load_rules

from codelm.corpus.licenses.expressions import canonical
from codelm.corpus.licenses.normal import normal, normal_hash

# fmt: off
LICENSES = {
    "0BSD", "AFL-3.0", "AGPL-3.0-only", "Apache-1.1", "Apache-2.0", "Artistic-1.0-Perl", "Artistic-2.0",
    "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-4-Clause", "BSD-4-Clause-UC",
    "BSL-1.0", "BlueOak-1.0.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0",
    "CDDL-1.0", "CDDL-1.1", "CECILL-2.1", "CPL-1.0", "ECL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.2", "GFDL-1.3-only",
    "GPL-1.0-only", "GPL-2.0-only", "GPL-3.0-only", "HPND", "ISC", "LGPL-2.0-only", "LGPL-2.1-only", "LGPL-3.0-only",
    "MIT", "MIT-0", "MIT-CMU", "MPL-1.1", "MPL-2.0", "MS-PL", "MS-RL", "MulanPSL-2.0", "NCSA", "OFL-1.1", "OSL-3.0",
    "OpenSSL", "PHP-3.01", "PSF-2.0", "PostgreSQL", "Python-2.0", "SSPL-1.0", "UPL-1.0", "Unicode-3.0", "Unlicense",
    "W3C", "WTFPL", "X11", "ZPL-2.1", "Zlib", "curl",
}
# fmt: on
SHORTEST = 20
"""Words; anything shorter is no whole licence text."""
OUT = Path(__file__).parent.parent / "codelm" / "corpus" / "data" / "license_hashes.json"


def main() -> None:
    """Hashes the texts of the installed scancode-toolkit."""
    known = load_licenses(with_deprecated=False)
    texts = [(key, licence.text) for key, licence in known.items()]
    texts += [(r.license_expression, r.text) for r in load_rules() if r.is_license_text and r.relevance == 100]
    licenses: dict[str, set[str]] = defaultdict(set)
    for key, text in texts:
        if text and normal(text).count(" ") >= SHORTEST:
            spdx = known[key].spdx_license_key if key in known else None
            licenses[normal_hash(text)].add(canonical(spdx) or key)
    found: dict[str, list[str]] = defaultdict(list)
    for digest, names in licenses.items():
        if len(names) == 1 and (name := min(names)) in LICENSES:
            found[name].append(digest)
    rows = [f'  "{name}": {json.dumps(sorted(found[name]))}' for name in sorted(found)]
    OUT.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(f"{len(found)} licences, {sum(map(len, found.values()))} texts; none for {sorted(LICENSES - set(found))}")


if __name__ == "__main__":
    main()
