"""Where a catalogue comes from: enough to make it again, and to cite it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final

import cosmicai

from cosmicai_workbench.results.failed import partitions_of

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
        The partitions read, each with ``partition`` (key or path) and ``etag``, None or empty
        where the run does not know it.
    """

    facts: dict[str, str]
    partitions: list[dict[str, str | None]]

    @cached_property
    def partitions_json(self) -> str:
        """The partitions as JSON."""
        return json.dumps(self.partitions)


def provenance_of(run: Run) -> Provenance:
    """Return where a run's catalogue comes from."""
    summary = run.summary
    partitions = [
        {"partition": path, "etag": etag}
        for record in run.records
        for path, etag in partitions_of(record)
    ]
    text = "".join(f"{row['partition']} {row['etag']}\n" for row in partitions)
    facts = {
        "RUNID": summary.execution.name,
        "EXECARN": summary.execution.id,
        "RUNDATE": summary.execution.start_time.isoformat(),
        "DATE": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "STATUS": summary.status,
        "MODELDIG": summary.model_digest or "unknown",
        "ENGINE": summary.engine or "unknown",
        "CODEVERS": f"cosmicai {cosmicai.__version__}",
        "NFAILED": str(summary.num_failed_ranks),
        "NPART": str(len(partitions)),
        "DATADIG": hashlib.sha256(text.encode()).hexdigest(),
        "CITATION": CITATION,
    }
    origin = summary.origin
    if origin is not None:
        facts |= {
            "BANDS": ",".join(origin.bands),
            "SIDE": str(origin.side),
            "PIXSCALE": str(origin.pixel_scale or "unknown"),
            "PHOTSYS": origin.photometric_system or "unknown",
            "OUTPUT": origin.output,
            "TRAINSET": origin.training or "unknown",
            "TRAINDIG": origin.training_digest or "unknown",
        }
        if origin.calibration or origin.calibration_digest:
            at = origin.calibrated_at
            facts |= {
                "CALSET": origin.calibration or "unknown",
                "CALDIG": origin.calibration_digest or "unknown",
                "CALDATE": at.isoformat() if at else "unknown",
            }
    return Provenance(facts, partitions)
