"""Numbers as people read them."""

import math


def count(value: float) -> str:
    """Whole number with thousands separated: ``12,345``."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Duration with a fitting unit: ``8.31 s``, ``4 min 12 s``, ``2 h 5 min``."""
    if value < 0.1:
        return f"{value * 1000:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def dollars(value: float) -> str:
    """US dollars with two significant digits: ``$0.00012``, ``$1.20``."""
    if value == 0:
        return "$0"
    digits = max(2, 1 - math.floor(math.log10(abs(value))))
    return f"${value:,.{digits}f}"


def signed_dollars(value: float) -> str:
    """US dollars with their sign: ``+$0.0012``, ``−$0.10``."""
    return f"{'−' if value < 0 else '+'}{dollars(abs(value))}"


def size(value: float) -> str:
    """Bytes in units of 1024, as everywhere (``cosmicai.facts``): ``1.31 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TB"


def rate(bits_per_second: float) -> str:
    """Bits a second in decimal units: ``37.6 Mbit/s``."""
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if abs(bits_per_second) < 1000:
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= 1000
    return f"{bits_per_second:.3g} Tbit/s"


def figure(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """Return a fixed number of decimals, or a dash where there is no figure."""
    if value is None:
        return "–"
    return f"{value:{'+' if sign else ''}z.{digits}f}"  # z: no minus before a rounded zero


def share(value: float | None, digits: int = 2) -> str:
    """Per cent, or a dash where there is no figure."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"
