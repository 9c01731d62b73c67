"""The workbench: command line, local cloud, data sets, training, reports.

::

    import cosmicai_workbench

    run = cosmicai_workbench.run(data="partitions", model="my-model", on="local")
    print(run.summary.quality)
    table = run.catalogue()

``on="stack:NAME"`` runs on AWS instead. See :func:`run`; :func:`predict` does without any cloud.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosmicai_workbench.api import ExecutionFailed, FinishedRun, run
    from cosmicai_workbench.bars import Progress
    from cosmicai_workbench.predicting import predict
    from cosmicai_workbench.results.run_folder import Run, load_run

__version__ = "0.2.0"
__all__ = [
    "ExecutionFailed",
    "FinishedRun",
    "Progress",
    "Run",
    "__version__",
    "load_run",
    "predict",
    "run",
]

_MODULES = {
    "Progress": "bars",
    "Run": "results.run_folder",
    "load_run": "results.run_folder",
    "predict": "predicting",
    "ExecutionFailed": "api",
    "FinishedRun": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the package itself stays cheap."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
