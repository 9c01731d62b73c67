"""Where a catalogue comes from: enough to make it again, and to cite it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import cosmicai

if TYPE_CHECKING:
    from cosmicai_workbench.results.run_folder import Run

CITATION: Final = "Staylor et al., arXiv:2501.06249"


@dataclass(frozen=True)
class Provenance:
    """What is known of a catalogue's origin.

    Attributes
    ----------
    facts
        Key → value; keys fit a FITS header.
    partitions
        The partitions read, each with ``partition`` (key or path) and ``etag``, empty where the
        run does not know it.
    """

    facts: dict[str, str]
    partitions: list[dict[str, str]]

    @cached_property
    def partitions_json(self) -> str:
        """The partitions as JSON."""
        return json.dumps(self.partitions)


def provenance_of(run: Run) -> Provenance:
    """Return where a run's catalogue comes from."""
    summary = run.summary
    partitions = []
    for record in run.records:
        paths = [record.data_path] if isinstance(record.data_path, str) else record.data_path or []
        partitions += [{"partition": path, "etag": ""} for path in paths]
    facts = {
        "RUNID": summary.execution.name,
        "EXECARN": summary.execution.id,
        "RUNDATE": summary.execution.start_time.isoformat(),
        "STATUS": summary.status,
        "MODELDIG": summary.model_digest or "unknown",
        "ENGINE": summary.engine or "unknown",
        "CODEVERS": f"cosmicai {cosmicai.__version__}",
        "NFAILED": str(summary.num_failed_ranks),
    }
    return Provenance(facts, partitions)
