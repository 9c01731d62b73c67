"""Tables of the results of ``inference.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

Figures = dict[str, Any]


def print_tables(results: Figures, file: TextIO) -> None:
    """Print every section that the results hold."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction_set']}; {versions}",
        file=file,
    )
    for name, show in _SECTIONS.items():
        if name in results:
            at = f" ({results['measured_at'][name]})" if name in results["measured_at"] else ""
            print(f"\n## {name.replace('_', ' ')}{at}", file=file)
            for line in show(results[name]):
                print(line, file=file)


def _row(label: str, values: Figures, form: str = "9.1f") -> str:
    median, low, high = (format(values[key], form) for key in ("median", "min", "max"))
    return f"{label:44} {median}  ({low.strip()} – {high.strip()}, n = {values['n']})"


def _throughput(found: Figures) -> list[str]:
    lines = [f"{'galaxies per second, batch 512':44}    median"]
    lines += [_row(name, rates) for name, rates in found["galaxies_per_second"].items()]
    lines += [_row(name, ratio, "9.2f") for name, ratio in found["ratios"].items()]
    return lines


def _batch_sizes(found: Figures) -> list[str]:
    return [
        _row(f"batch {size}", rates) + f"  {found['of_the_best'][size]:.0%} of the best"
        for size, rates in found["galaxies_per_second"].items()
    ]


def _accuracy(found: Figures) -> list[str]:
    engines = list(found["max_abs_dz"])
    lines = [f"{'max |Δz| against the plain module':34}{'max |z|':>10}" + "".join(
        f"{name:>20}" for name in engines
    )]  # fmt: skip
    for case, largest in found["largest_abs_z"].items():
        errors = "".join(f"{found['max_abs_dz'][name][case]:20.1e}" for name in engines)
        lines.append(f"{case:34}{largest:10.2f}{errors}")
    return lines


def _cold_start(found: Figures) -> list[str]:
    lines = [
        _row(name, seconds, "9.2f")
        + f" s  {found['of_the_reference'][name]['median']:.2f} of the reference"
        for name, seconds in found["seconds"].items()
    ]
    parts = found.get("native_processor_seconds", {})
    return lines + [
        _row(f"native, first 32: {part}", seconds, "9.2f") + " s of processor"
        for part, seconds in parts.items()
    ]


def _throttled_s3(found: Figures) -> list[str]:
    lines = [_row(f"{name}, s", values, "9.2f") for name, values in found["seconds"].items()]
    return [*lines, _row("streamed / in memory", found["streamed / in memory"], "9.3f")]


def _growth(found: Figures) -> list[str]:
    lines = [
        f"partitions of {found['partition_mb']} MB   cores    seconds   galaxies/s   core·s/1,000"
    ]
    lines += [
        f"{row['partitions']:19} {row['cores']:7} {row['seconds']:10.2f} "
        f"{row['galaxies_per_second']:12.1f} {row['core_seconds_per_1000_galaxies']:14.2f}"
        for row in found["rows"]
    ]
    return lines


def _memory(found: Figures) -> list[str]:
    return [f"{name:44} {rank['peak_memory_mb']:9.0f} MB" for name, rank in found.items()]


def _breakdown(found: Figures) -> list[str]:
    parts = found["microseconds_a_galaxy"]
    total = sum(parts.values())
    lines = [f"{name:44} {part:9.1f} µs {part / total:6.1%}" for name, part in parts.items()]
    return [*lines, f"{'sum':44} {total:9.1f} µs a galaxy on {found['threads']} threads"]


def _products(found: Figures) -> list[str]:
    lines = [
        _row(f"{name}, GFLOP/s per core", rates) for name, rates in found["gflops_per_core"].items()
    ]
    share = found["share_of_time_beside_products"]
    return [
        *lines,
        _row("native / library", found["native / library"], "9.2f"),
        _row("share of the time beside products", share, "9.3f"),
    ]


def _threads(found: Figures) -> list[str]:
    rates = found["galaxies_per_second"]
    lines = [
        _row(f"galaxies per second, {count} thread{'s' if count != '1' else ''}", rate)
        for count, rate in rates.items()
    ]
    return [*lines, _row("ratio", found["ratio"], "9.2f")]


def _survey_cost(found: Figures) -> list[str]:
    dollars = found["dollars"]
    low, high = found["published_dollars"]
    spread = f"{dollars['max']:.3f} to {dollars['min']:.3f}"
    return [
        f"modelled for Lambda, x86_64: {dollars['median']:.3f} $ ({spread})",
        f"published: {low} to {high} $",
    ]


_SECTIONS = {
    "throughput": _throughput,
    "products": _products,
    "threads": _threads,
    "batch_sizes": _batch_sizes,
    "accuracy": _accuracy,
    "cold_start": _cold_start,
    "throttled_s3": _throttled_s3,
    "growth": _growth,
    "memory": _memory,
    "breakdown": _breakdown,
    "survey_cost": _survey_cost,
}
