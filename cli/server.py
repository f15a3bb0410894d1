"""Asking a running `codelm serve`."""

from typing import Any

from codelm.errors import UserError
from serving import DEFAULT_HOST, DEFAULT_PORT

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


class NoServerError(UserError):
    """Nothing listens there."""


def ask(url: str | None, method: str, path: str, body: Any = None, seconds: float | None = None) -> dict[str, Any]:
    """A server's answer. url: DEFAULT_URL unless given. seconds: to wait for it; None is for ever.

    Raises NoServerError if nothing listens, UserError if it does not answer as a codelm server does, or refuses.
    """
    import httpx

    base = (url or DEFAULT_URL).rstrip("/")
    try:
        # the server is this machine or one that the user names; a proxy from the environment is not meant for it
        with httpx.Client(trust_env=False, timeout=seconds) as client:
            response = client.request(method, base + path, json=body)
        answer = response.json()
        if response.is_error:
            message, _, fix = str(answer["error"]["message"]).rpartition("; ")
            raise UserError(f"{base} refused: {message or fix}", fix if message else "check the address, and what was asked")
        return dict(answer)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise UserError(f"{base} is not a URL", f"give one such as {DEFAULT_URL}") from None
    except httpx.ConnectError as error:
        raise NoServerError(f"{base} does not answer: {error}", "check that `codelm serve` runs there") from None
    except httpx.HTTPError as error:
        raise UserError(f"{base} does not answer: {error}", "check that `codelm serve` runs there") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{base} is not a codelm server", "check --server") from None
