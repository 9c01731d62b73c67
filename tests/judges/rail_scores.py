"""Score a qp ensemble with RAIL's evaluator; run by a Python that has pz-rail-base.

Usage: python rail_scores.py ENSEMBLE.hdf5
"""

import json
import sys

import numpy as np
import qp
from rail.evaluation.evaluator import OldEvaluator


def main() -> None:
    ensemble = qp.read(sys.argv[1])
    truth = {"redshift": np.asarray(ensemble.ancil["true_redshift"], float)}
    # RAIL takes p at the grid's redshift nearest to the true one: that must not be another bin.
    stage = OldEvaluator.make_stage(
        name="judge",
        zmin=-0.299975,
        zmax=1.500025,
        nzbins=36_000,
        hdf5_groupname="",
        redshift_col="redshift",
    )
    found = stage.evaluate(ensemble, truth)()
    scores = {name: float(np.ravel(value)[0]) for name, value in found.items()}
    scores["galaxies"] = int(ensemble.npdf)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
