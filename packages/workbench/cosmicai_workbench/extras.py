"""Optional libraries: an error that names the extra to install where one is missing."""

from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata, requires
from typing import TYPE_CHECKING

from cosmicai.errors import CosmicAIError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Distributions whose modules have other names than they.
_DISTRIBUTIONS = {
    "elftools": "pyelftools",
    "samcli": "aws-sam-cli",
    "samtranslator": "aws-sam-cli",
    "werkzeug": "moto",
    "yaml": "aws-sam-cli",
}
_PACKAGES = ("cosmicai-workbench", "cosmicai", "fmilib")
_TORCH = (
    "on Linux, `pip install torch --index-url https://download.pytorch.org/whl/cpu` avoids CUDA"
)


class MissingLibrary(CosmicAIError):
    """A command needs a library that is in an extra which is not installed."""


@contextmanager
def libraries_named() -> "Iterator[None]":
    """Turn the failed import of an optional library into an error that says what to install.

    Raises
    ------
    MissingLibrary
        Naming the extras that bring the library. An import that no extra explains is raised as
        it is: it is a fault of ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        found = extras_with(module)
        if not found:
            raise
        choice = " or ".join(f"`pip install '{extra}'`" for extra in found)
        hint = f" ({_TORCH})" if module == "torch" else ""
        raise MissingLibrary(
            f"the library {module} is not installed; install it with {choice}{hint}"
        ) from error


def extras_with(module: str) -> list[str]:
    """Return the smallest extras that bring a module, e.g. ``["cosmicai-workbench[data]"]``.

    They are read from the metadata of the installed packages, the workbench's first; a package
    counts only if those before it do not declare the library.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    library = canonicalize_name(_DISTRIBUTIONS.get(module, module))
    for package in _PACKAGES:
        try:
            declared = [Requirement(text) for text in requires(package) or []]
            extras = metadata(package).get_all("Provides-Extra") or []
        except PackageNotFoundError:
            continue
        found = [
            f"{package}[{extra}]"
            for extra in extras
            if extra != "all"
            and any(
                canonicalize_name(each.name) == library
                and each.marker is not None
                and each.marker.evaluate({"extra": extra})
                for each in declared
            )
        ]
        if found:
            return found
    return []
