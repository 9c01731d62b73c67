"""Predict galaxies: from arrays or partitions, through an engine, into columns.

Nothing here knows S3, the environment, or the state machine. ``cosmicai.open_model`` makes a
:class:`Predictor` for users; Model Inference makes one from its rank's task.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from cosmicai.columns import PredictedBatch, columns_of, columns_with, magnitude_in
from cosmicai.errors import InvalidInput
from cosmicai.facts import BATCH_SIZE, INPUT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from astropy.table import QTable
    from numpy.typing import ArrayLike, NDArray

    from cosmicai.engines.base import Engine
    from cosmicai.model.bundle import Bundle
    from cosmicai.model.interface import Distribution, Inputs, Interface
    from cosmicai.partition.catalogue import Catalogue
    from cosmicai.partition.imaging import Imaging
    from cosmicai.partition.reader import Batch, PartitionReader
    from cosmicai.partition.sources import RequestStatistics, S3Object
    from cosmicai.schema import Origin, Quality


@dataclass
class Predictions:
    """Predicted galaxies as columns, and what predicting them took.

    ``predictions["redshift"]`` and the like are the columns; see ``cosmicai.columns`` for what they
    hold.
    """

    model: Interface | None = None
    """What the model takes and gives; None before anything is predicted."""
    num_samples: int = 0
    """Galaxies predicted."""
    num_bytes: int = 0
    """Size of the partitions read."""
    num_batches: int = 0
    input_bytes: int = 0
    """Of the images and magnitudes predicted."""
    predict_seconds: float = 0.0
    wait_seconds: float = 0.0
    """Time that predicting stood still for data."""
    nonfinite_pixels: int = 0
    nonfinite_magnitudes: int = 0
    """Both count values that are NaN, infinite, or beyond ``cosmicai.facts.INPUT_LIMIT``."""
    s3: list[RequestStatistics] = field(default_factory=list)
    partitions: list[str] = field(default_factory=list)
    """Paths or S3 addresses of the partitions, in the order of the column ``partition``."""
    photometric_systems: set[str] = field(default_factory=set)
    pixel_scales: set[float] = field(default_factory=set)
    """Both as the partitions say; scales in arcseconds."""
    catalogues: list[Catalogue] = field(default_factory=list)
    """One per partition: which object each galaxy is."""
    rejected: list[Catalogue] = field(default_factory=list)
    """Objects of the data set that are in no partition."""
    _parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return one column, (N,)."""
        if name == "partition" and self.partitions:
            import numpy as np

            names: NDArray[Any] = np.array(self.partitions, object)[self._stored("partition")]
            return names
        if name not in self.columns:
            raise KeyError(f"{name!r}; columns: {', '.join(self.columns)}")
        return self._stored(name)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the catalogue's order; of arrays, without ``partition``."""
        stored = columns_of(self.model)
        return [
            name
            for name in columns_with(stored)
            if name in stored or (name == "partition" and self.partitions)
        ]

    @property
    def redshift(self) -> NDArray[np.float32]:
        """Predicted redshifts (N,); NaN where there is no prediction."""
        return self._stored("redshift")

    @property
    def grid(self) -> NDArray[np.float64]:
        """Redshifts (G,) of the columns of :attr:`pdf`: the model's own bins, or fitting ones.

        Raises
        ------
        InvalidInput
            The model gives redshifts alone.
        """
        from cosmicai.outputs import default_grid

        return default_grid(*self._distributions())

    @property
    def pdf(self) -> NDArray[np.float32]:
        """Probability densities of the redshifts, (N, G); NaN where there is no prediction.

        Raises
        ------
        InvalidInput
            The model gives redshifts alone.
        """
        return self.pdf_on(self.grid)

    def pdf_on(self, grid: ArrayLike) -> NDArray[np.float32]:
        """Return the probability densities (N, G) on a given grid (G,).

        Raises
        ------
        InvalidInput
            The model gives redshifts alone.
        """
        from cosmicai.outputs import pdf

        return pdf(*self._distributions(), grid)

    def _distributions(self) -> tuple[Distribution, NDArray[np.floating[Any]]]:
        """Return what is kept of each galaxy's distribution, and what it means."""
        import numpy as np

        from cosmicai.outputs import stored_form

        output = self.model.distribution if self.model else None
        if output is None:
            raise InvalidInput("no p(z): the model gives redshifts alone")
        meaning, none = stored_form(output, np.empty((0, output.values)))
        self._parts.setdefault("pdf", [none])
        return meaning, self._stored("pdf")

    def _distribution_arrays(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        if not (self.model and self.model.distribution):
            return {}
        meaning, kept = self._distributions()
        return {"pdf": kept, "output": np.array(meaning.model_dump_json())}

    def quality(self) -> Quality:
        """Return the figures of merit over the galaxies whose redshift is known."""
        from cosmicai.quality import figures, statistics_of

        return figures(statistics_of(self.to_dict() | self._distribution_arrays()))

    def origin(self) -> Origin | None:
        """Return what a catalogue's users must know of model and images; None without galaxies."""
        from cosmicai.schema import Origin

        if self.model is None:
            return None
        image, training = self.model.inputs.image, self.model.training
        labelled = self.model.calibration and self.model.calibration.labelled
        stated = tuple(self.pixel_scales) if len(self.pixel_scales) == 1 else (None,)
        return Origin(
            bands=image.bands,
            side=image.side,
            pixel_scale=image.pixel_scale or stated[0],
            photometric_system=", ".join(sorted(self.photometric_systems)) or None,
            output=self.model.output.kind,
            training=(training.name or "unnamed") if training else "",
            training_digest=training.digest if training else "",
            calibration=labelled.name if labelled else "",
            calibration_digest=labelled.digest if labelled else "",
            calibrated_at=labelled.date if labelled else None,
        )

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name."""
        return {name: self[name] for name in self.columns}

    def to_table(self) -> QTable:
        """Return an astropy table with units, descriptions and UCDs."""
        from cosmicai.tables import to_table

        return to_table(self.to_dict(), {})

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table, whose fields say unit, description and UCD."""
        from cosmicai.tables import to_arrow

        return to_arrow(self.to_dict(), {})

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame."""
        from cosmicai.tables import to_pandas

        return to_pandas(self.to_dict())

    def arrays(self, data_paths: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a predictions file.

        Of models with distributions, ``pdf`` holds them, as the JSON text ``output`` says
        (``cosmicai.outputs.stored_form``). The columns that the partitions carry are under
        ``catalogue`` and ``rejected``, as
        :meth:`~cosmicai.partition.catalogue.Catalogue.to_arrays` writes them.

        Parameters
        ----------
        data_paths
            What the partitions are called there.
        """
        import numpy as np

        from cosmicai.partition.catalogue import concatenate

        arrays = {name: self._stored(name) for name in ("partition", *columns_of(self.model))}
        arrays["data_paths"] = np.array(data_paths, dtype=np.str_)
        arrays |= self._distribution_arrays()
        for name, parts in (("catalogue", self.catalogues), ("rejected", self.rejected)):
            carried = concatenate(parts)
            if carried.columns:
                arrays |= carried.to_arrays(name)
        return arrays

    def append(
        self,
        batch: PredictedBatch,
        batch_size: int,
        pdf: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Add a batch, which counts as so many batches of ``batch_size``.

        Parameters
        ----------
        pdf
            (b, n): what is kept of its distributions.
        """
        import numpy as np

        count = len(batch)
        self.num_samples += count
        self.num_batches += math.ceil(count / batch_size)
        self.input_bytes += batch.image.nbytes + batch.magnitude.nbytes
        parts = self._parts
        if pdf is not None:
            parts.setdefault("pdf", []).append(pdf)
        parts.setdefault("partition", []).append(np.full(count, batch.partition, np.int32))
        for name, column in columns_of(batch.model).items():
            # Copied, because a view would keep the whole batch in memory.
            parts.setdefault(name, []).append(np.array(column.value(batch), column.dtype))

    def _stored(self, name: str) -> NDArray[Any]:
        import numpy as np

        parts = self._parts.get(name, [])
        if not parts:
            dtype = "int32" if name == "partition" else columns_with([name])[name].dtype
            parts = [np.empty(0, dtype)]
        if len(parts) > 1:
            parts = [np.concatenate(parts)]
        self._parts[name] = parts
        return parts[0]


class Predictor:
    """A model loaded into an engine.

    Parameters
    ----------
    engine
        The loaded engine.
    digest
        SHA-256 of the model bundle.
    interface
        What the model takes and gives; by default, as AstroMAE.
    precision, threads
        What the engine computes with.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        digest: str,
        interface: Interface | None = None,
        precision: str = "float32",
        threads: int = 1,
    ) -> None:
        from cosmicai.model.interface import Interface

        self._engine = engine
        self.interface = interface or Interface()
        self.digest = digest
        self.precision = precision
        self.threads = threads

    @classmethod
    def load(
        cls, bundle: Bundle, engine: str, *, threads: int, precision: str, device: str = "cpu"
    ) -> Predictor:
        """Load a bundle into the engine of a name.

        Raises
        ------
        InvalidInput, ModelMismatch
            See :func:`cosmicai.engines.base.load_engine`.
        """
        from cosmicai.engines.base import load_engine

        loaded = load_engine(engine, bundle, threads=threads, precision=precision, device=device)
        return cls(
            loaded,
            digest=bundle.digest,
            interface=bundle.interface,
            precision=precision,
            threads=threads,
        )

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._engine.name

    def __repr__(self) -> str:
        return (
            f"<Predictor: engine {self.engine}, {self.precision}, {self.threads} threads, "
            f"model {self.digest[:12]}>"
        )

    def predict(
        self,
        image: ArrayLike,
        magnitude: ArrayLike | None = None,
        scalars: Mapping[str, ArrayLike] | None = None,
    ) -> Predictions:
        """Predict galaxies in memory.

        Parameters
        ----------
        image
            (N, bands, side, side): cutouts as the model takes them (``interface.inputs``); an
            AstroMAE's are 5 × 32 × 32, in u, g, r, i, z, nanomaggies.
        magnitude
            (N, bands), if the model takes magnitudes. Masked values count as unknown, as NaN does.
        scalars
            Name → (N,), if the model takes further numbers.

        Returns
        -------
        Predictions
            One row per galaxy, in order; NaN where there is no prediction.

        Raises
        ------
        InvalidInput
            The arrays are not what the model takes, or do not hold numbers.
        """
        import numpy as np

        from cosmicai.engines.base import check_batch
        from cosmicai.partition.reader import Batch

        inputs = self.interface.inputs
        bands = inputs.magnitude.bands if inputs.magnitude else ()
        if bands and magnitude is None:
            raise InvalidInput(
                f"magnitude: the model takes {len(bands)} of a galaxy ({', '.join(bands)}), found "
                "none"
            )
        if magnitude is not None and not bands:
            raise InvalidInput("magnitude: the model takes none; leave it out")
        images = _float32(image, "image")
        none = np.empty((*images.shape[:1], 0), np.float32)
        magnitudes = none if magnitude is None else _float32(magnitude, "magnitude")
        check_batch(images, magnitudes, inputs.model_copy(update={"scalars": ()}))
        unknown = np.full(len(images), np.nan, np.float32)
        given = _scalars(inputs, scalars or {}, len(images))
        whole = Batch(0, images, magnitudes, unknown, given)
        predictions = Predictions(self.interface)
        step = self._galaxies_at_once(BATCH_SIZE)
        for start in range(0, len(images), step):
            self._predict(predictions, 0, whole[start : start + step], BATCH_SIZE)
        return predictions

    def predict_partitions(
        self,
        partitions: Iterable[str | Path | S3Object],
        *,
        batch_size: int = BATCH_SIZE,
        on_partition: Callable[[str], None] | None = None,
    ) -> Predictions:
        """Predict partitions, streamed: memory holds a few batches, whatever their size.

        Parameters
        ----------
        partitions
            Paths of ``.pt`` files, or addresses ``s3://bucket/key``.
        batch_size
            Galaxies per batch, as counted; the engine may get several batches at once.
        on_partition
            Called with a partition's name when it is predicted.

        Raises
        ------
        PartitionNotFound, CorruptPartition, UnsafePickle, TransientStorageError
            From reading a partition.
        PartitionMismatch
            A partition is not what the model takes; a ``CorruptPartition``, too.
        InvalidInput
            No partition is named, one instead of a list is, or an address is not one.
        """
        from cosmicai.partition.sources import located

        if isinstance(partitions, str | PathLike):
            raise InvalidInput(f"partitions: a list expected, such as [{str(partitions)!r}]")
        sources = [located(partition) for partition in partitions]
        if not sources:
            raise InvalidInput("partitions: at least one expected, found none")
        predictions = Predictions(self.interface)
        with opened_for(self.engine, sources, batch_size) as readers:
            self.predict_readers(
                readers, predictions, batch_size=batch_size, on_partition=on_partition
            )
        return predictions

    def predict_readers(
        self,
        readers: Iterable[PartitionReader],
        predictions: Predictions,
        *,
        batch_size: int,
        on_partition: Callable[[str], None] | None = None,
    ) -> None:
        """Predict opened partitions, one after the other, and add them to ``predictions``.

        Raises
        ------
        PartitionMismatch, CorruptPartition, TransientStorageError
            From reading them.
        """
        from cosmicai.partition.catalogue import Catalogue

        predictions.model = self.interface
        for reader in readers:
            reader.require(self.interface.inputs)
            position = len(predictions.partitions)
            for batch in reader:
                self._predict(predictions, position, batch, batch_size, reader.imaging)
            predictions.partitions.append(reader.name)
            if system := reader.imaging.photometric_system:
                predictions.photometric_systems.add(system)
            if scale := reader.imaging.pixel_scale:
                predictions.pixel_scales.add(scale)
            predictions.catalogues.append(reader.catalogue() or Catalogue((), reader.num_samples))
            if rejected := reader.rejected():
                predictions.rejected.append(rejected)
            predictions.num_bytes += reader.nbytes
            predictions.wait_seconds += reader.wait_seconds
            if reader.s3 is not None:
                predictions.s3.append(reader.s3)
            if on_partition is not None:
                on_partition(reader.name)

    def _galaxies_at_once(self, batch_size: int) -> int:
        from cosmicai.engines.registry import galaxies_at_once

        return galaxies_at_once(self.engine, batch_size)

    def _predict(
        self,
        predictions: Predictions,
        partition: int,
        galaxies: Batch,
        batch_size: int,
        imaging: Imaging | None = None,
    ) -> None:
        """Predict a batch; galaxies with unusable input are counted and predicted as NaN.

        An engine may turn a NaN or an overflow into a plausible number (a maximum with NaN, say),
        so such galaxies are blanked before and after it.
        """
        import numpy as np

        from cosmicai.outputs import estimate, stored_form

        started = time.perf_counter()
        model, image = self.interface, galaxies.image
        values = galaxies.values(model.inputs)
        given_image, given_values = image, values
        bad = ~(_usable(image) & _usable(values))
        if bad.any():
            predictions.nonfinite_pixels += _count_unusable(image[bad])
            predictions.nonfinite_magnitudes += _count_unusable(values[bad])
            given_image, given_values = image.copy(), values.copy()
            given_image[bad], given_values[bad] = 0, 0
        raw = self._engine.predict(given_image, given_values)
        if bad.any():
            raw = np.where(bad.reshape(-1, *(1,) * (raw.ndim - 1)), np.float32(np.nan), raw)
        taken = model.inputs.magnitude
        bands = (imaging and imaging.magnitude_bands) or (taken.bands if taken else ())
        magnitude_r = magnitude_in("r", galaxies.magnitude, bands)
        estimates = estimate(model.output, raw, model.calibration, magnitude_r)
        distribution = model.distribution
        pdf = None if distribution is None else stored_form(distribution, raw)[1]
        predictions.predict_seconds += time.perf_counter() - started
        batch = PredictedBatch(
            partition=partition,
            start=galaxies.start,
            image=image,
            magnitude=galaxies.magnitude,
            true_redshift=galaxies.redshift,
            estimates=estimates,
            model=model,
            magnitude_bands=bands,
        )
        predictions.append(batch, batch_size, pdf)


def opened_for(
    engine: str, sources: Sequence[Path | S3Object], batch_size: int
) -> AbstractContextManager[Iterator[PartitionReader]]:
    """Open partitions, to be read in as many galaxies at once as the engine wants.

    Raises
    ------
    PartitionNotFound, CorruptPartition, UnsafePickle, TransientStorageError
        When the readers are asked for.
    """
    from cosmicai.engines.registry import galaxies_at_once
    from cosmicai.partition.reader import opened_ahead

    return opened_ahead(sources, batch_size=galaxies_at_once(engine, batch_size))


def _scalars(inputs: Inputs, given: Mapping[str, ArrayLike], count: int) -> NDArray[np.float32]:
    """Return the scalars that a model takes, (count, s), in its order."""
    import numpy as np

    names = [scalar.name for scalar in inputs.scalars]
    if set(given) != set(names):
        raise InvalidInput(
            f"scalars: the model takes {', '.join(names) or 'none'}, found "
            f"{', '.join(map(str, given)) or 'none'}"
        )
    columns = [_float32(given[name], name) for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.shape != (count,):
            raise InvalidInput(f"{name}: ({count},) expected, found {column.shape}")
    return np.stack(columns, axis=1) if columns else np.empty((count, 0), np.float32)


def _usable(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say of each galaxy whether all its values are numbers within ``INPUT_LIMIT``."""
    import numpy as np

    if not values.size:
        return np.ones(len(values), np.bool_)
    rows = values.reshape(len(values), math.prod(values.shape[1:]))
    with np.errstate(invalid="ignore"):  # NaN compares as false
        usable: NDArray[np.bool_] = (rows.max(axis=1) <= INPUT_LIMIT) & (
            rows.min(axis=1) >= -INPUT_LIMIT
        )
    return usable


def _count_unusable(values: NDArray[np.float32]) -> int:
    import numpy as np

    with np.errstate(invalid="ignore"):
        return values.size - int((np.abs(values) <= INPUT_LIMIT).sum())


def _float32(values: ArrayLike, name: str) -> NDArray[np.float32]:
    """Return an array as the engines take it, masked values as NaN."""
    import numpy as np

    try:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is counted
            masked: Any = np.ma.asarray(values).astype(np.float32, copy=False)
            filled = masked.filled(np.nan) if np.ma.is_masked(masked) else masked.data
            return np.ascontiguousarray(filled, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: an array of numbers expected: {error}") from None


def npz_bytes(columns: dict[str, NDArray[Any]]) -> bytes:
    """Write the arrays as an .npz file; the same arrays give the same bytes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def npz_columns(body: bytes, skip: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file, but for those to ``skip``.

    Raises
    ------
    ValueError
        If it is not an .npz file, or damaged.
    """
    import zipfile
    import zlib

    import numpy as np

    # RuntimeError: zipfile's word for a file that is encrypted, or packed in a way it cannot undo.
    damage = (OSError, EOFError, KeyError, TypeError, RuntimeError, MemoryError)
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name not in skip}
    except (*damage, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no .npz file: {error}") from error
