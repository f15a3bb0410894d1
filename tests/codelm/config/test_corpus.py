"""What the corpus' settings refuse, with what was meant."""

from typing import Any

import pytest

from codelm.config.corpus import CorpusConfig
from codelm.config.load import checked
from codelm.errors import UserError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"licenses": {"deny": ["MITT"]}}, "did you mean 'MIT'"),
        ({"licenses": {"deny": ["GLP-3.0"]}}, "did you mean 'GPL-3.0'"),
        ({"licenses": {"allow": ["permisive"]}}, "did you mean 'permissive'"),
        ({"licenses": {"allow": ["XYZ-*"]}}, "categories: public-domain"),
        ({"languages": ["Pyhton"]}, "did you mean 'Python'"),
        ({"sources": ["https://example.com/a.git"]}, "git clone --bare"),
        ({"sources": ["git:https://example.com/a.git"]}, "git clone --bare"),
        ({"sources": ["svn:somewhere"]}, "unknown kind of source 'svn'"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        checked(values, CorpusConfig)


@pytest.mark.parametrize("name", ["MIT", "mit", "GPL-3.0", "GPL-*", "LGPL-2.1-or-later", "LicenseRef-mine", "copyleft"])
def test_licences_by_any_of_their_names(name: str) -> None:
    assert CorpusConfig.model_validate({"licenses": {"deny": [name]}}).licenses.deny == [name]
