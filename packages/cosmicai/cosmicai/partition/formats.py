"""Files of other formats, recognized by their first bytes, and what makes partitions of them."""

_COMMANDS = {
    b"\x89HDF": ("an HDF5 file", "convert"),
    b"PAR1": ("a Parquet file", "convert"),
    b"SIMPLE": ("a FITS file", "from-fits"),
}


def made_by(what: str, command: str) -> str:
    """Say what was found and which command makes partitions of it."""
    return f"{what}: `cosmicai data {command}` makes partitions of it"


def described(start: bytes) -> str:
    """Say what a file is that starts with some bytes."""
    for magic, found in _COMMANDS.items():
        if start.startswith(magic):
            return made_by(*found)
    return f"a file that starts with {start[:8]!r}" if start else "an empty file"
