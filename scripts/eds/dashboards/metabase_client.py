"""The HTTP API of one Metabase.

requests is imported where it is used: it takes a tenth of the time in which a command starts, and few ask Metabase.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from eds.base.errors import UserError

if TYPE_CHECKING:
    from requests import Response

Json = dict[str, Any]

CONNECT_SECONDS = 5
ANSWER_SECONDS = 120


class ApiError(UserError):
    """Metabase refused a call. status: the HTTP status, text: what it answered."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"Metabase answered {method} {path} with {status}: {text}")
        self.status = status
        self.text = text


class Client:
    """The API of one Metabase. url: its address, such as http://127.0.0.1:3000."""

    def __init__(self, url: str) -> None:
        from requests import Session
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        self.url = url.rstrip("/")
        self.session = Session()
        # A connection that was kept open may be gone when it is used again.
        self.session.mount(self.url, HTTPAdapter(max_retries=Retry(connect=0, read=2, allowed_methods=["GET"])))

    def call(self, method: str, path: str, body: Json | None = None, **query: str) -> Any:
        """Make one call. Returns the answer's JSON, or None. Raises ApiError, and UserError when nothing answers."""
        from requests import RequestException

        try:
            answer = self.session.request(
                method, self.url + path, json=body, params=query, timeout=(CONNECT_SECONDS, ANSWER_SECONDS)
            )
        except RequestException as error:
            raise UserError(f"No answer from Metabase at {self.url}: {error}") from error
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise ApiError(method, path, answer.status_code, _sentence(answer))
        if answer.status_code == HTTPStatus.NO_CONTENT or not answer.content:
            return None
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text

    def get(self, path: str, **query: str) -> Any:
        return self.call("GET", path, None, **query)

    def post(self, path: str, body: Json) -> Any:
        return self.call("POST", path, body)

    def put(self, path: str, body: Json) -> Any:
        return self.call("PUT", path, body)

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until it answers as healthy: a first start takes minutes. Raises UserError after `seconds`."""
        from requests import RequestException

        last = ""

        def healthy() -> bool:
            nonlocal last
            try:
                answer = self.session.get(f"{self.url}/api/health", timeout=CONNECT_SECONDS)
            except RequestException as error:
                last = f"nothing answers there ({type(error).__name__})"
                return False
            last = _sentence(answer)
            return answer.status_code == HTTPStatus.OK

        try:
            Retrying(
                stop=stop_after_delay(seconds),
                wait=wait_exponential(multiplier=0.1, max=3),
                retry=retry_if_result(lambda answer: not answer),
            )(healthy)
        except RetryError as error:
            raise UserError(
                f"Metabase at {self.url} was not ready within {seconds:.0f} s: {last}. Is it running there "
                "(METABASE_HOST, METABASE_PORT)? METABASE_START_SECONDS waits longer."
            ) from error


def _sentence(answer: Response) -> str:
    """Return what an answer that is no success says: text, or JSON with errors, message or status."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text.strip()[:500] or answer.reason
    if not isinstance(body, dict):
        return str(body)[:500]
    parts = [str(body[key]) for key in ("message", "status") if body.get(key)]
    if errors := body.get("errors"):
        parts.append(", ".join(f"{key}: {value}" for key, value in errors.items()) if isinstance(errors, dict) else "")
    return "; ".join(part for part in parts if part) or str(body)[:500]
