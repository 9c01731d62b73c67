"""The processor that the layer was built for, and a clear error on any other."""

import os
from pathlib import Path

_MARK = Path(__file__).with_name("BUILT_FOR")
"""Written by layers/build.py; a package that was installed by pip has none, and runs anywhere."""


def check_processor(mark: Path = _MARK, machine: str | None = None) -> None:
    """Refuse to start on a processor whose libraries the layer does not hold.

    Parameters
    ----------
    mark
        File that holds the architecture, as Lambda names it.
    machine
        The processor, as ``uname -m`` names it; this machine's if None.

    Raises
    ------
    ImportError
        The layer was built for another architecture. Without this check, the first native library
        would fail to import, and its message would not say why.
    """
    if not mark.exists():
        return
    built_for = mark.read_text().strip()
    machine = machine or os.uname().machine
    found = {"aarch64": "arm64"}.get(machine, machine)
    if found != built_for:
        raise ImportError(
            f"the layers were built for {built_for}, and this function runs on {found}: run `make "
            f"build ARCHITECTURE={found}` and deploy again, or deploy with Architecture={built_for}"
        )
