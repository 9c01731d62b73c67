"""Sections about galaxies: their redshifts, how good these are, their pictures."""

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import BAND_NAMES
from cosmicai.flags import FAILED_RANK, FLAGS, count_flags
from cosmicai.partition.catalogue import REASON
from cosmicai.quality import range_of

from cosmicai_workbench.report import figures, text
from cosmicai_workbench.report.content import Picture, Section, Table
from cosmicai_workbench.report.distributions import gather
from cosmicai_workbench.report.plot import Line
from cosmicai_workbench.results.table import FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai.schema import Figures, Quality
    from numpy.typing import NDArray

    from cosmicai_workbench.report.cutouts import Images
    from cosmicai_workbench.report.distributions import Distributions
    from cosmicai_workbench.report.sample import Sample
    from cosmicai_workbench.results.run_folder import Predictions, Run

    Floats = NDArray[np.floating]

_COLOURS = (("g", "r"), ("r", "i"), *itertools.pairwise(BAND_NAMES))
"""Colours to draw redshift against, the most telling first."""
_MAGNITUDE = "magnitude_"
_REASONS = 5
"""That are named, of why objects were left out."""


def sections(run: "Run", sample: "Sample", prefix: str) -> "Iterator[Section]":
    """Yield the sections about redshifts, and about their quality where truth is known."""
    predictions = run.predictions
    found = gather(run, sample)
    if np.isfinite(predictions.redshift).any():
        yield _redshifts(predictions, sample, found, prefix)
    if predictions.known.any():
        yield _quality(run, sample, prefix)


def flags(run: "Run", prefix: str) -> Section | None:
    """Return how many galaxies have each flag; None where no galaxy has any."""
    stored = run.predictions.stored["flags"]
    counts = run.summary.flag_counts or count_flags(stored)
    if not counts:
        return None
    lost = counts.get(FAILED_RANK.name, 0)
    total, flagged = stored.size + lost, int(np.count_nonzero(stored)) + lost
    rows = tuple(
        (
            flag.description,
            flag.name,
            str(flag.value),
            text.count(counts[flag.name]),
            text.share(counts[flag.name] / total),
        )
        for flag in FLAGS
        if flag.name in counts
    )
    note = (
        f"{text.count(flagged)} of {text.count(total)} galaxies ({text.share(flagged / total)}) "
        "have at least one. Look at why before you use their redshifts."
    )
    if unflagged := int(run.predictions.unflagged.sum()):
        note += f" {text.count(unflagged)} were predicted by a release that computed no flags."
    table = Table("Galaxies by flag", ("reason", "flag", "value", "galaxies", "share"), rows)
    return Section(f"{prefix}-flags", "Flags", note, tables=(table,))


def _redshifts(
    predictions: "Predictions", sample: "Sample", found: "Distributions | None", prefix: str
) -> Section:
    fine = np.isfinite(predictions.redshift)
    redshift = predictions.redshift[fine].astype(float)
    true = predictions.true_redshift[predictions.known].astype(float)
    pictures = [
        Picture(
            figures.redshift_distribution(
                redshift, true, f"{prefix}-nz", (found.grid, found.stacked) if found else None
            ),
            _about_nz(found),
        )
    ]
    if found and found.examples:
        plot = figures.distributions(found, sample, f"{prefix}-pz")
        about = "p(z) of a few galaxies"
        about += "; dashed, their true redshifts." if predictions.known.any() else "."
        pictures.append(Picture(plot, about))
    for values, of_sample, title, key in _quantities(predictions, sample):
        both = fine & np.isfinite(values)
        if both.sum() < 2:
            continue
        plot = figures.against(
            values[both].astype(float),
            predictions.redshift[both].astype(float),
            sample,
            of_sample,
            title,
            f"{prefix}-z-{key}",
        )
        median = any(isinstance(layer, Line) for layer in plot.layers)
        line = " The line is the median." if median else ""
        pictures.append(Picture(plot, f"Predicted redshift against {title}.{line}"))
    note = (
        f"{text.count(redshift.size)} galaxies with a prediction{_left_out(predictions)}. "
        f"Points are a sample of at most "
        f"{text.count(sample.positions.size)}: hover for values, click one to see it, draw a box "
        "around some to see where they lie in every figure."
    )
    return Section(
        f"{prefix}-redshifts", "Redshifts", note, pictures=tuple(pictures), explorer="galaxies"
    )


def _left_out(predictions: "Predictions") -> str:
    """Say how many objects of the data set are in no partition, and the most frequent reasons."""
    objects = predictions.rejected
    if not len(objects):
        return ""
    given = objects.columns.get(REASON.name)
    texts = (str(value).partition(":")[0] for value in (given.values if given else ()))
    reasons = Counter(texts).most_common(_REASONS)
    told = ", ".join(f"{text.count(count)} {reason}" for reason, count in reasons)
    return f"; {text.count(len(objects))} left out of the partitions{told and f' ({told})'}"


def _about_nz(found: "Distributions | None") -> str:
    about = "n(z): galaxies per unit of redshift"
    if found is None:
        return f"{about}."
    some = f" of {text.count(found.used)} galaxies, scaled to all" if found.used < found.of else ""
    return f"{about}; as the sum of p(z){some}, and counted by their point estimates."


def _quantities(
    predictions: "Predictions", sample: "Sample"
) -> "Iterator[tuple[Floats, Floats, str, str]]":
    """Yield what redshift is drawn against: values, the sample's, a title with unit, a key."""
    stored = predictions.stored
    bands = [name.removeprefix(_MAGNITUDE) for name in stored if name.startswith(_MAGNITUDE)]
    at = sample.positions
    band = "r" if "r" in bands else next(iter(bands), None)
    if band is not None:
        values = stored[f"{_MAGNITUDE}{band}"].astype(float)
        yield values, values[at], f"{band} magnitude (mag)", "magnitude"
    for one, other in _COLOURS:
        if one in bands and other in bands:
            values = stored[f"{_MAGNITUDE}{one}"] - stored[f"{_MAGNITUDE}{other}"].astype(float)
            yield values, values[at], f"{one} − {other} colour (mag)", "colour"
            return


def _quality(run: "Run", sample: "Sample", prefix: str) -> Section:
    predictions = run.predictions
    known = predictions.known
    true = predictions.true_redshift[known].astype(float)
    predicted = predictions.redshift[known].astype(float)
    residual = (predicted - true) / (1 + true)
    quality = run.summary.quality
    nmad = (quality.nmad if quality else None) or 0.0
    magnitude = predictions.magnitude_r[known].astype(float)
    pictures = [
        Picture(
            figures.predicted_against_true(true, predicted, nmad, sample, f"{prefix}-density"),
            "Predicted against true redshift; beyond the dashed lines a galaxy is an outlier.",
        ),
        Picture(
            figures.residual_histogram(
                residual, nmad, float(np.mean(residual)), f"{prefix}-residuals"
            ),
            "Residuals Δz / (1 + z), Δz = predicted − true.",
        ),
        Picture(
            figures.residual_against(
                predicted,
                residual,
                "predicted redshift",
                f"{prefix}-by-redshift",
                sample,
                sample.redshift,
            ),
            "Residuals against predicted redshift, in bins of at least five galaxies.",
        ),
    ]
    if np.isfinite(magnitude).any():
        of_sample = sample.columns["magnitude_r"].astype(float)
        plot = figures.residual_against(
            magnitude, residual, "r magnitude (mag)", f"{prefix}-by-magnitude", sample, of_sample
        )
        pictures.append(
            Picture(plot, "Residuals against r magnitude, in bins of at least five galaxies.")
        )
    if quality and quality.num_distributions:
        plot = figures.pit(quality, f"{prefix}-pit")
        pictures.append(
            Picture(
                plot,
                "PIT: flat if p(z) says what it should, ∪-shaped if it is too narrow, ∩-shaped if "
                "too wide.",
            )
        )
    if quality and (quality.num_distributions or quality.num_intervals):
        plot = figures.coverage(quality, f"{prefix}-coverage")
        pictures.append(
            Picture(plot, "Below the line, intervals are too narrow; above it, too wide.")
        )
    missing = known.size - int(known.sum())
    note = f"{text.count(int(known.sum()))} galaxies have a known redshift to compare with"
    note += f"; {text.count(missing)} have not, or no prediction." if missing else "."
    return Section(
        f"{prefix}-quality",
        "Redshift quality",
        note,
        pictures=tuple(pictures),
        tables=tuple(_merit(quality)) if quality else (),
    )


def _merit(quality: "Quality") -> "Iterator[Table]":
    """Yield the figures of merit, over all galaxies and in bins."""
    shown = [name for name in FIGURES if getattr(quality, name) is not None]
    if not shown:
        return
    heads = [FIGURES[name][0] for name in shown]

    def row(label: str, of: "Figures") -> tuple[str, ...]:
        values = (getattr(of, name) for name in shown)
        formats = (FIGURES[name][1] for name in shown)
        return (
            label,
            text.count(of.num_galaxies),
            *("–" if v is None else f"{v:{form}}" for v, form in zip(values, formats, strict=True)),
        )

    yield Table(
        "Figures of merit; Δz is predicted minus true redshift",
        ("galaxies", "number", *heads),
        (row("all", quality),),
    )
    for title, bins in (
        ("predicted redshift", quality.by_redshift),
        ("r magnitude", quality.by_magnitude),
    ):
        if bins:
            rows = tuple(row(range_of(each.low, each.high), each) for each in bins)
            yield Table(
                f"The same in bins of {title}", (title, "number", *heads), rows, folded=True
            )


def cutouts(sample: "Sample", images: "Images", prefix: str) -> Section:
    """Return the pictures of galaxies: at random, the extremes, the flagged."""
    return Section(
        f"{prefix}-cutouts",
        "Galaxies",
        images.note,
        cutouts=images.rows(sample),
        explorer="" if sample is None else "cutouts",
    )
