"""The page of all settings says what the settings say."""

from settings_reference import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python scripts/settings_reference.py"


def test_a_setting_has_its_values_and_its_default() -> None:
    rows = page().splitlines()
    assert any(row.startswith("| `pretrain.optimizer` | `adamw` `muon` | `adamw` | ") for row in rows)
    assert any(row.startswith("| `pretrain.tokens` | whole number | – | ") for row in rows)
    assert any(row.startswith("| `model.width` | whole number | to be given | ") for row in rows)
