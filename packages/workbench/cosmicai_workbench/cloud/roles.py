"""What functions and state machines may do: the template's policies, enforced where it is asked.

moto evaluates the policies. Which action a request asks for is found here, for the services that
the application uses; an action that is not known is refused, so that nothing passes unseen. The
user of the cloud may do all.
"""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from cosmicai_workbench.cloud.access import PRINCIPAL, USER, Refused, refuse
from cosmicai_workbench.cloud.template import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_INVOKE = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")
_DELETED_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_OBJECT = {
    "GET": "GetObject",
    "HEAD": "GetObject",
    "PUT": "PutObject",
    "POST": "PutObject",  # the calls of a multipart upload
    "DELETE": "DeleteObject",
}


class Roles:
    """WSGI application that lets permitted requests through to another.

    Parameters
    ----------
    application
        Serves what is permitted.
    policies
        Policy documents of each principal but the user; see :class:`Guard` for the names.
    """

    def __init__(
        self, application: WSGIApplication, policies: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> None:
        from moto.iam.access_control import IAMPolicy

        self._application = application
        self._policies = {
            name: [IAMPolicy(json.dumps(document)) for document in documents]
            for name, documents in policies.items()
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        principal = environ[PRINCIPAL]
        if principal != USER:
            service = environ["HTTP_AUTHORIZATION"].split("/", 4)[3]
            for action, resource in _asked(environ, service):
                if not self._permits(principal, action, resource):
                    kind = "AccessDenied" if service == "s3" else "AccessDeniedException"
                    message = f"{principal} is not authorized to perform {action} on {resource}"
                    return refuse(start, Refused(kind, message, service))
        return self._application(environ, start)

    def _permits(self, principal: str, action: str, resource: str) -> bool:
        """Say whether a statement allows an action and none denies it."""
        found = [
            policy.is_action_permitted(action, resource).name
            for policy in self._policies[principal]
        ]
        return "PERMITTED" in found and "DENIED" not in found


def _asked(environ: WSGIEnvironment, service: str) -> list[tuple[str, str]]:
    """Return the actions that a request asks for, each with the ARN that it is about."""
    path = unquote(environ["PATH_INFO"])
    if service == "s3":
        # Everyone may learn that a bucket does not exist, as on S3.
        return _asked_of_s3(environ, path) if _has_bucket(path.split("/")[1]) else []
    if invoked := _INVOKE.fullmatch(path):
        return [("lambda:InvokeFunction", invoked[1])]
    operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    return [(f"{service}:{operation}", "*")]


def _has_bucket(name: str) -> bool:
    from moto.s3.models import s3_backends

    return not name or name in s3_backends[ACCOUNT]["aws"].buckets


def _asked_of_s3(environ: WSGIEnvironment, path: str) -> list[tuple[str, str]]:
    method, query = environ["REQUEST_METHOD"], parse_qs(environ["QUERY_STRING"], True)
    bucket, _, key = path.lstrip("/").partition("/")
    place = f"arn:aws:s3:::{bucket}"
    if key:
        if "tagging" in query:
            return [(f"s3:{method.capitalize()}ObjectTagging", f"{place}/{key}")]
        asked = [(f"s3:{_OBJECT.get(method, method)}", f"{place}/{key}")]
        if "HTTP_X_AMZ_TAGGING" in environ:
            asked.append(("s3:PutObjectTagging", f"{place}/{key}"))
        if source := environ.get("HTTP_X_AMZ_COPY_SOURCE"):
            asked.append(("s3:GetObject", f"arn:aws:s3:::{unquote(source).lstrip('/')}"))
        return asked
    if method == "POST" and "delete" in query:
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(content)
        return [
            ("s3:DeleteObject", f"{place}/{found}")
            for found in _DELETED_KEY.findall(content.decode())
        ]
    listing = {"list-type", "prefix", "delimiter", "max-keys", "encoding-type"}
    continued = {"continuation-token", "start-after", "fetch-owner"}
    if bucket and method in ("GET", "HEAD") and query.keys() <= listing | continued:
        return [("s3:ListBucket", place)]
    return [(f"s3:{method}?{'&'.join(query)}", place)]
