"""The workbench: command line, local cloud, data sets, training, reports.

::

    import cosmicai_workbench

    run = cosmicai_workbench.run(data="partitions", model="my-model", on="local")
    print(run.summary.quality)
    table = run.catalogue()

``on="stack:NAME"`` runs on AWS instead. See :func:`run`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosmicai_workbench.api import ExecutionFailed, FinishedRun, run
    from cosmicai_workbench.bars import Progress

__version__ = "0.2.0"
__all__ = ["ExecutionFailed", "FinishedRun", "Progress", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the package itself stays cheap."""
    if name == "Progress":
        from cosmicai_workbench.bars import Progress

        return Progress
    if name in __all__:
        from cosmicai_workbench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
