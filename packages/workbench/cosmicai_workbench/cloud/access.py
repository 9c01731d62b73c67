"""Who may use a local cloud: holders of its keys, and no web page.

Every request is signed with AWS Signature Version 4, as AWS itself asks for, by keys that are made
for each cloud. The signature is computed by botocore, whose code signs the clients' requests. It
keeps out other users of the machine, and web pages in the user's browser; these are refused by
their ``Origin`` and, after DNS rebinding, by their ``Host`` as well. Not behind it are the
emulators of the sandboxes; see :func:`cosmicai_workbench.cloud.sandbox.loopback_host`.
"""

from __future__ import annotations

import hmac
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from cosmicai_workbench.cloud.credentials import Keys

PRINCIPAL = "cosmicai.principal"
"""Key of the WSGI environment: the name of the keys that a request was signed with."""

USER = "user"
"""Name of the keys that the user of the cloud has, who may do all."""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/([^/,]+)/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_CLOCK_SKEW = timedelta(minutes=15)
_XML_SERVICES = frozenset({"s3", "cloudformation", "iam", "sts"})


class Refused(Exception):
    """A request that is not let in; ``code`` and ``service`` say in AWS's words why."""

    def __init__(self, code: str, message: str, service: str = "s3") -> None:
        super().__init__(message)
        self.code = code
        self.service = service


class Guard:
    """WSGI application that lets signed requests through to another.

    Parameters
    ----------
    application
        Serves what is let through; the WSGI environment then names the ``PRINCIPAL``.
    keys
        Keys by the name of who holds them.
    port
        Port that the server listens on.
    """

    def __init__(self, application: WSGIApplication, keys: Mapping[str, Keys], port: int) -> None:
        self._application = application
        self._holders = {each.access_key: (name, each) for name, each in keys.items()}
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            self._check_source(environ)
            environ[PRINCIPAL] = self._check_signature(environ)
        except Refused as refusal:
            return refuse(start, refusal)
        return self._application(environ, start)

    def _check_source(self, environ: WSGIEnvironment) -> None:
        """Refuse web pages, and what is not part of AWS's API."""
        host = environ.get("HTTP_HOST", "")
        if host not in self._hosts:
            raise Refused("AccessDenied", f"the local cloud does not answer for the host {host!r}")
        if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
            raise Refused("AccessDenied", "the local cloud does not answer web pages")
        if environ["PATH_INFO"].lower().startswith("/moto-api"):
            raise Refused("AccessDenied", "the local cloud has no administration over HTTP")

    def _check_signature(self, environ: WSGIEnvironment) -> str:
        """Return the name of the keys that signed a request."""
        found = _AUTHORIZATION.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if found is None:
            raise Refused(
                "MissingAuthenticationToken",
                "the request is not signed: take the keys from `cosmicai local status --env`",
            )
        access_key, date, region, service, signed, signature = found.groups()
        if access_key not in self._holders:
            code = "InvalidAccessKeyId" if service == "s3" else "UnrecognizedClientException"
            raise Refused(
                code,
                "these keys are not this local cloud's: take them from `cosmicai local status "
                "--env`",
                service,
            )
        name, keys = self._holders[access_key]
        sent = environ.get("HTTP_X_AMZ_DATE", "")
        names = signed.split(";")
        if not _is_now(sent) or not sent.startswith(date) or not {"host", "x-amz-date"} <= {*names}:
            raise Refused("RequestTimeTooSkewed", "the request was not signed just now", service)
        if not hmac.compare_digest(_signature(environ, keys, region, service, names), signature):
            raise Refused(
                "SignatureDoesNotMatch" if service == "s3" else "InvalidSignatureException",
                "the signature is not the one that these keys give",
                service,
            )
        return name


def _signature(
    environ: WSGIEnvironment, keys: Keys, region: str, service: str, names: list[str]
) -> str:
    """Return the signature that a request should have."""
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    auth = kind(Credentials(keys.access_key, keys.secret_key), service, region)
    headers = {name: _header(environ, name) for name in names}
    # S3's clients sign a digest that they send; others the digest of the body itself.
    body = b"" if "x-amz-content-sha256" in headers else _body(environ)
    request = AWSRequest(
        method=environ["REQUEST_METHOD"],
        url=f"http://{environ['HTTP_HOST']}{environ['RAW_URI']}",
        headers=headers,
        data=body,
    )
    request.context["timestamp"] = headers["x-amz-date"]
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return str(auth.signature(text, request))


def _header(environ: WSGIEnvironment, name: str) -> str:
    key = name.upper().replace("-", "_")
    return str(environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}", ""))


def _body(environ: WSGIEnvironment) -> bytes:
    """Read a request's body, and leave it to be read again."""
    content: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(content)
    return content


def _is_now(text: str) -> bool:
    try:
        when = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs(datetime.now(UTC) - when) <= _CLOCK_SKEW


def refuse(start: StartResponse, refusal: Refused) -> list[bytes]:
    """Answer in the form that the clients of the service read."""
    headers = [("Connection", "close"), ("x-amzn-ErrorType", refusal.code)]
    if refusal.service in _XML_SERVICES:
        body = (
            f"<ErrorResponse><Error><Code>{refusal.code}</Code><Message>{escape(str(refusal))}"
            "</Message></Error></ErrorResponse>"
        )
        headers.append(("Content-Type", "application/xml"))
    else:
        body = json.dumps({"__type": refusal.code, "message": str(refusal)})
        headers.append(("Content-Type", "application/json"))
    content = body.encode()
    status = HTTPStatus.FORBIDDEN
    start(f"{status} {status.phrase}", [*headers, ("Content-Length", str(len(content)))])
    return [content]
