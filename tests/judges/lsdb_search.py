"""Look for galaxies of a HATS catalogue with LSDB; run by a Python that has it.

Usage: python lsdb_search.py CATALOGUE.hats OBJECTS.parquet
"""

import json
import sys

import lsdb
import pandas as pd
from hats.io.validation import is_valid_catalog


def main() -> None:
    """Print, as JSON, what was found around the first object, and by matching all of them."""
    catalogue = lsdb.open_catalog(sys.argv[1])
    objects = pd.read_parquet(sys.argv[2])
    first = objects.iloc[0]
    cone = catalogue.cone_search(float(first.ra), float(first.dec), 1).compute()
    mine = lsdb.from_dataframe(objects, ra_column="ra", dec_column="dec", margin_threshold=10)
    both = mine.crossmatch(catalogue, radius_arcsec=1, suffixes=("_mine", "")).compute()
    found = {
        "valid": is_valid_catalog(sys.argv[1], strict=True),
        "rows": len(catalogue.compute()),
        "cone": [int(number) for number in cone["object_id"]],
        "matched": len(both),
        "same": bool((both["object_id_mine"] == both["object_id"]).all()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
