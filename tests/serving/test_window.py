from serving.window import Windows


def choose(windows: Windows, reading_ms: float | None, cached: tuple[int, ...] = (), document: object = "a") -> int:
    """The divisor, of 1,024 tokens that are read at one a millisecond."""
    _, divisor = windows.choose(
        document, 1024, reading_ms, lambda limit: [0] * limit, lambda ids: 0 if len(ids) in cached else len(ids)
    )
    return divisor


def test_a_prompt_is_as_long_as_can_be_read() -> None:
    assert choose(Windows(), None) == 1
    assert [choose(Windows(), ms) for ms in (1024, 1023, 512, 511, 256, 128, 1)] == [1, 2, 2, 4, 4, 8, 8]


def test_what_has_been_read_costs_nothing() -> None:
    assert choose(Windows(), 128, cached=(1024,)) == 1
    assert choose(Windows(), 128, cached=(512,)) == 2


def test_the_choice_stays_while_the_speed_goes_up_and_down_a_little() -> None:
    windows = Windows()
    assert [choose(windows, ms) for ms in (1000, 1050, 1000, 1200, 1000)] == [2] * 5
    assert choose(windows, 1750) == 1, "much more time"
    assert choose(windows, 1050) == 1
    assert choose(Windows(), 1000, document=None) == 2


def test_short_windows_are_not_cut() -> None:
    prompt, divisor = Windows().choose("a", 100, 1, lambda limit: [0] * limit, lambda ids: 1e9)
    assert (len(prompt), divisor) == (100, 1)
