"""The only place that builds the S3 keys of an execution, all under its result path."""

from __future__ import annotations

import re

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OURS = re.compile(
    r"(claim|manifest|plan|combined_data|summary|fmi)\.json"
    r"|(?=(?:\w+/)?(?P<rank>0|[1-9]\d*)\.)(\d+\.json|predictions/\d+\.npz|failures/\d+\.json)"
    r"|resumed/manifest\.json"
    rf"|map/{_UUID}/(manifest|(SUCCEEDED|FAILED|PENDING)_\d+)\.json"
    r"|fmi/[0-9a-f]{20}/.+"  # fmilib's digest of the session
)


def folder(path: str) -> str:
    """Return a folder's listing prefix: ``100MB`` must not match ``100MB-old/1.pt``."""
    return path.strip("/") + "/"


def claim(result_path: str) -> str:
    """Return the key that names the execution which holds the path; written first."""
    return folder(result_path) + "claim.json"


def is_claim_inside(result_path: str, key: str) -> bool:
    """Say whether a key is the claim on another result path, inside this one."""
    own = claim(result_path)
    name = own.rsplit("/", 1)[1]
    return key != own and key.startswith(folder(result_path)) and key.endswith(f"/{name}")


def manifest(result_path: str) -> str:
    """Return the key of the manifest: one item per rank, read by the Map."""
    return folder(result_path) + "manifest.json"


def resumed_manifest(result_path: str) -> str:
    """Return the key of a resumed execution's manifest: its missing ranks only."""
    return folder(result_path) + "resumed/manifest.json"


def plan(result_path: str) -> str:
    """Return the key of what Initialize decided."""
    return folder(result_path) + "plan.json"


def rank(result_path: str, number: int) -> str:
    """Return the key of one rank's record."""
    return f"{folder(result_path)}{number}.json"


def predictions(result_path: str, number: int) -> str:
    """Return the key of one rank's predictions."""
    return f"{folder(result_path)}predictions/{number}.npz"


def failure(result_path: str, number: int) -> str:
    """Return the key of why one rank failed for good; written by the state machine itself."""
    return f"{folder(result_path)}failures/{number}.json"


def combined_data(result_path: str) -> str:
    """Return the key of all rank records, in rank order."""
    return folder(result_path) + "combined_data.json"


def summary(result_path: str) -> str:
    """Return the key of the execution's summary."""
    return folder(result_path) + "summary.json"


def fmi(result_path: str) -> str:
    """Return the key of what the ranks agreed on through FMI."""
    return folder(result_path) + "fmi.json"


FMI_TAG = "cosmicai=fmi-message"
"""Of every message's object: the template's lifecycle rule removes what a crash leaves by it."""


def fmi_messages(result_path: str) -> str:
    """Return the prefix of the messages that ranks exchange through S3."""
    return folder(result_path) + "fmi"


def map_results(result_path: str) -> str:
    """Return the prefix of what the Map's ResultWriter writes."""
    return folder(result_path) + "map"


def model_file(model_folder: str, name: str) -> str:
    """Return the key of one file of a model bundle."""
    return folder(model_folder) + name


def is_result(result_path: str, key: str, world_size: int | None = None) -> bool:
    """Say whether an execution writes this key: what ``overwrite`` may delete, and only that.

    Parameters
    ----------
    world_size
        Ranks of the execution; None if that is unknown.
    """
    prefix = folder(result_path)
    if not key.startswith(prefix):
        return False
    match = _OURS.fullmatch(key.removeprefix(prefix))
    if match is None:
        return False
    return world_size is None or match["rank"] is None or int(match["rank"]) < world_size


def parents(result_path: str) -> list[str]:
    """Return the folders that contain a result path, the outermost first."""
    steps = result_path.strip("/").split("/")
    return ["/".join(steps[:count]) for count in range(1, len(steps))]
