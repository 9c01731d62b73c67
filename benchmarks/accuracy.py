"""How good a model's redshifts and distributions are, what its images add, and what a forest can.

The same galaxies are predicted as they are, with blank images, and with everyone's magnitudes
replaced by the mean of those the model learned from; a quantile regression forest (Meinshausen
2006) on the magnitudes and colours of the same training galaxies predicts them, too. Leaf size and
training set of the forest are chosen by CRPS on the validation galaxies, which the forest does not
learn from. All figures are computed here, by SciPy, and not by the code they judge.

    python benchmarks/accuracy.py BUNDLE [--split validation] [--json FILE]

``--split test``: for the final model, once; its card and docs take their figures from that file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.engines.base import load_engine
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import MixtureOutput
from cosmicai_workbench.data.photometry import Photometry, concatenate, load_training
from cosmicai_workbench.data.resampling import Resampler
from cosmicai_workbench.data.synthesis import Galaxies, paint_galaxies, synthesize
from cosmicai_workbench.modeling.evaluation import HELD_OUT
from measuring import machine
from scipy.sparse import csr_matrix
from scipy.special import ndtr, softmax
from scipy.stats import cramervonmises, kstest
from sklearn.ensemble import RandomForestRegressor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

GRID = np.linspace(-0.1, 0.6, 2801)
"""Redshifts at which distribution functions are evaluated; CRPS is their sum."""
LEAVES = (2, 5, 10)
RESAMPLED = 7500
TREES = 100
OUTLIER = 0.05

Array = Any


def figures(cdf: Array, truth: Array) -> dict[str, float]:
    """Return figures of merit of distribution functions on ``GRID``, (N, G), at truth (N,)."""
    median = _quantile(cdf, 0.5)
    error = (median - truth) / (1 + truth)
    pit = np.array([np.interp(z, GRID, row) for z, row in zip(truth, cdf, strict=True)])
    step = GRID[1] - GRID[0]
    after = truth[:, None] <= GRID
    return {
        "num_galaxies": len(truth),
        "r2": float(1 - ((median - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()),
        "nmad": float(1.4826 * np.median(np.abs(error - np.median(error)))),
        "mae": float(np.abs(median - truth).mean()),
        "bias": float(error.mean()),
        "outlier_fraction": float((np.abs(error) > OUTLIER).mean()),
        "crps": float(((cdf - after) ** 2).sum(axis=1).mean() * step),
        "pit_ks": float(kstest(pit, "uniform").statistic),
        "pit_cvm": float(cramervonmises(pit, "uniform").statistic),
        "coverage_68": float(((pit > 0.16) & (pit < 0.84)).mean()),
        "coverage_95": float(((pit > 0.025) & (pit < 0.975)).mean()),
        "half_width_68": float(np.median(_quantile(cdf, 0.84) - _quantile(cdf, 0.16)) / 2),
    }


def _quantile(cdf: Array, level: float) -> Array:
    """Return where each distribution function reaches ``level``, linear between grid points."""
    above = np.argmax(cdf >= level, axis=1)
    rows = np.arange(len(cdf))
    low, high = cdf[rows, above - 1], cdf[rows, above]
    return GRID[above - 1] + (level - low) / (high - low) * (GRID[1] - GRID[0])


def mixture_cdf(raw: NDArray[np.float32]) -> Array:
    """Return the distribution functions on ``GRID`` of Gaussian mixtures in ln(1+z)."""
    logits, means, log_sigmas = np.split(raw.astype(np.float64), 3, axis=1)
    weights, sigmas = softmax(logits, axis=1), np.exp(log_sigmas)
    cdf = np.zeros((len(raw), len(GRID)))
    for component in range(weights.shape[1]):
        part = (slice(None), slice(component, component + 1))
        cdf += weights[part] * ndtr((np.log1p(GRID) - means[part]) / sigmas[part])
    return cdf


class Forest:
    """A quantile regression forest on magnitudes and colours."""

    def __init__(self, training: Photometry, leaf: int, seed: int) -> None:
        order = np.argsort(training.redshift)
        self._redshift = training.redshift[order]
        self._forest = RandomForestRegressor(
            TREES, min_samples_leaf=leaf, max_features=0.5, random_state=seed, n_jobs=1
        )
        features = _features(training.magnitude[order])
        self._forest.fit(features, self._redshift)
        self._nodes = max(tree.tree_.node_count for tree in self._forest.estimators_)
        self._training = self._memberships(features)

    def cdf(self, magnitude: Array) -> Array:
        """Return the distribution functions on ``GRID``."""
        # A training galaxy's weight: its share of the leaf, averaged over the trees.
        sizes = np.maximum(self._training.sum(axis=0).A1, 1)
        found = self._memberships(_features(magnitude)).multiply(1 / (sizes * TREES))
        weights = (found.tocsr() @ self._training.T).toarray()
        reached = np.searchsorted(self._redshift, GRID, side="right")
        return np.pad(np.cumsum(weights, axis=1), ((0, 0), (1, 0)))[:, reached]

    def _memberships(self, features: Array) -> Array:
        """Return in which leaves galaxies are: a sparse matrix (N, trees x nodes) of ones."""
        leaves = self._forest.apply(features) + self._nodes * np.arange(TREES)
        rows = np.repeat(np.arange(len(leaves)), TREES)
        shape = (len(leaves), self._nodes * TREES)
        return csr_matrix((np.ones(leaves.size), (rows, leaves.ravel())), shape)


def _features(magnitude: Array) -> Array:
    return np.hstack((magnitude, -np.diff(magnitude, axis=1)))


def best_forest(learn: Photometry, validation: Galaxies, seed: int) -> tuple[Forest, Any]:
    """Return the forest with the lowest CRPS on the validation galaxies, and what was tried."""
    rng = np.random.default_rng(seed)
    sets = {"survey rows": learn}
    sets["with resampled galaxies"] = concatenate(learn, Resampler(learn).draw(RESAMPLED, rng))
    tried = []
    forests = []
    for name, training in sets.items():
        for leaf in LEAVES:
            forest = Forest(training, leaf, seed)
            found = figures(forest.cdf(validation.magnitude), validation.redshift)
            forests.append(forest)
            tried.append({"training": name, "leaf": leaf, "validation_crps": found["crps"]})
    chosen = min(range(len(tried)), key=lambda index: tried[index]["validation_crps"])
    return forests[chosen], {"chosen": tried[chosen], "tried": tried}


def _joined(blocks: Iterator[Galaxies]) -> Galaxies:
    parts = list(blocks)
    names = ("image", "magnitude", "redshift", "parent")
    return Galaxies(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def measure(bundle: Bundle, split: str, seed: int, threads: int) -> dict[str, Any]:
    """Return all figures of a model with a mixture."""
    if not isinstance(bundle.config.output, MixtureOutput):
        raise SystemExit(f"{bundle.path}: a model with a mixture expected")
    learn, held_back = load_training()
    validation = paint_galaxies(held_back, np.random.default_rng((seed, 2)))
    galaxies = validation if split == "validation" else _joined(synthesize(HELD_OUT, "test", seed))
    assert not set(galaxies.parent) & set(learn.parent)
    engine = load_engine("plain", bundle, threads=threads)
    mean = np.broadcast_to(learn.magnitude.mean(axis=0), galaxies.magnitude.shape)
    cases = {
        "model": (galaxies.image, galaxies.magnitude),
        "blank_images": (np.zeros_like(galaxies.image), galaxies.magnitude),
        "mean_magnitudes": (galaxies.image, mean.astype(np.float32)),
    }
    truth = galaxies.redshift.astype(np.float64)
    found = {
        name: figures(mixture_cdf(engine.predict(image, magnitude)), truth)
        for name, (image, magnitude) in cases.items()
    }
    forest, choice = best_forest(learn, validation, seed)
    return {
        "bundle": bundle.digest,
        "split": split,
        "seed": seed,
        "machine": machine("torch", "scikit-learn"),
        **found,
        "forest": figures(forest.cdf(galaxies.magnitude), truth) | choice,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write to")
    options = parser.parse_args()
    bundle = Bundle(options.bundle)
    found = measure(bundle, options.split, options.seed, options.threads)
    text = json.dumps(found, indent=2) + "\n"
    if options.json:
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
