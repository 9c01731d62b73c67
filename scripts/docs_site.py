"""Write the sources of the documentation site: docs/, its notebooks run, and a reference from code.

python scripts/docs_site.py build/site   # then: mkdocs build -f build/site/mkdocs.yml

`make docs` does both. Everything under Reference is read from the declarations themselves: the
command line's tree, the schemas, the catalogue's columns, the errors, the template.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cosmicai.errors
import fmilib.errors
import nbclient
import nbformat
import typer
from cosmicai.columns import COLUMNS
from cosmicai.engines.registry import BUILT_IN
from cosmicai.schema import ExecutionInput, Quality, QualityStatistics, RankRecord, Summary
from cosmicai_workbench.cli.main import app
from samcli.yamlhelper import yaml_parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click
    from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
NAVIGATION: dict[str, list[tuple[str, str]]] = {
    "Start": [("Why", "index.md"), ("First run in five minutes", "first-run.md")],
    "Tutorials": [
        ("First redshifts", "notebooks/first-redshifts.ipynb"),
        ("A survey through the state machine", "notebooks/survey.ipynb"),
    ],
    "How to": [
        ("Bring your own images", "data.md"),
        ("Bring your own model", "models.md"),
        ("Deploy to AWS", "deploy.md"),
        ("Operate it", "runbook.md"),
        ("Plan and resume", "planning.md"),
        ("Know the cost", "cost.md"),
        ("Take the catalogue elsewhere", "catalogue.md"),
        ("Compare settings", "experiments.md"),
    ],
    "Reference": [
        ("Command line", "reference/commands.md"),
        ("Input of an execution", "reference/input.md"),
        ("Records and summary", "reference/results.md"),
        ("Columns of a catalogue", "reference/columns.md"),
        ("Errors", "reference/errors.md"),
        ("Parameters of a stack", "reference/parameters.md"),
        ("Engines", "reference/engines.md"),
        ("Partitions", "data-format.md"),
        ("Python: cosmicai", "reference/cosmicai.md"),
        ("Python: cosmicai_workbench", "reference/cosmicai_workbench.md"),
        ("Python: fmilib", "reference/fmilib.md"),
    ],
    "Explanation": [
        ("Architecture", "architecture.md"),
        ("An execution", "execution.md"),
        ("The local cloud", "local-cloud.md"),
        ("Messages between functions", "fmilib.md"),
        ("Speed", "performance.md"),
        ("Quality of redshifts", "quality.md"),
        ("The report", "report.md"),
        ("From Python", "python.md"),
        ("Measured", "measured.md"),
        ("Beside other tools", "alternatives.md"),
        ("Glossary", "glossary.md"),
    ],
}
"""Section → pages; those that are absent are left out, and a page that is not named is an error."""

PYTHON = {
    "cosmicai": ("cosmicai.models", "cosmicai.prediction", "cosmicai.engines.registry"),
    "cosmicai_workbench": ("cosmicai_workbench.api",),
    "fmilib": ("fmilib.communicator", "fmilib.fmi_operations"),
}
"""Package → its public modules, whose docstrings make the page."""


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def schema_table(model: type[BaseModel]) -> str:
    """Describe the keys of a document by its pydantic model."""
    document = model.model_json_schema(by_alias=True)
    required = set(document.get("required", ()))
    return table(
        ("key", "type", "default", "meaning"),
        (
            (
                f"`{name}`",
                _type_name(entry),
                "required" if name in required else f"`{json.dumps(entry.get('default'))}`",
                entry.get("description", ""),
            )
            for name, entry in document["properties"].items()
        ),
    )


def _type_name(entry: dict[str, Any]) -> str:
    if "$ref" in entry:
        return entry["$ref"].rsplit("/", 1)[-1]
    if "anyOf" in entry:
        return " or ".join(_type_name(part) for part in entry["anyOf"])
    if "allOf" in entry:
        return " and ".join(_type_name(part) for part in entry["allOf"])
    if "enum" in entry or "const" in entry:
        return " or ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "array":
        return f"array of {_type_name(entry.get('items', {}))}"
    return str(entry.get("type", "any"))


def commands() -> str:
    """Describe every command with its arguments and options."""
    root = typer.main.get_command(app)
    with typer_context(root, "cosmicai") as context:
        return "# Command line\n\n" + "\n".join(_command(root, context, "cosmicai"))


def typer_context(command: click.Command, name: str) -> click.Context:
    """Return a context in which a command renders its help."""
    context: click.Context = command.make_context(name, ["--help"], resilient_parsing=True)
    return context


def _command(command: Any, context: Any, path: str) -> Iterator[str]:
    yield f"## `{path}`\n\n{inspect.cleandoc(command.help or '')}\n"
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    if parameters:
        yield table(
            ("argument or option", "default", "meaning"),
            (
                (
                    f"`{_names(p)}`",
                    "required" if p.required else _default(p),
                    getattr(p, "help", None) or "",
                )
                for p in parameters
            ),
        )
    if getattr(command, "epilog", None):
        yield f"{inspect.cleandoc(command.epilog)}\n"
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        child = command.get_command(context, name)
        if not child.hidden:
            yield from _command(child, typer_context(child, name), f"{path} {name}")


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return ", ".join([*parameter.opts, *parameter.secondary_opts])
    return str(parameter.metavar or parameter.name.upper())


def _default(parameter: Any) -> str:
    default = parameter.default
    return "" if default is None or callable(default) else f"`{default}`"


def errors() -> str:
    """Describe every named error."""
    parts = ["# Errors\n"]
    for module in (cosmicai.errors, fmilib.errors):
        rows = (
            (f"`{name}`", inspect.getdoc(kind) or "")
            for name, kind in vars(module).items()
            if isinstance(kind, type)
            and issubclass(kind, Exception)
            and kind.__module__ == module.__name__
        )
        parts.append(f"## {module.__name__}\n\n" + table(("error", "meaning"), rows))
    return "\n".join(parts)


def parameters() -> str:
    """Describe the parameters of the template."""
    declared = yaml_parse((ROOT / "template.yaml").read_text())["Parameters"]
    return "# Parameters of a stack\n\n" + table(
        ("parameter", "default", "allowed", "meaning"),
        (
            (
                f"`{name}`",
                f"`{entry['Default']}`" if entry.get("Default") not in ("", None) else "",
                ", ".join(f"`{value}`" for value in entry.get("AllowedValues", ())),
                entry.get("Description", ""),
            )
            for name, entry in declared.items()
        ),
    )


def columns() -> str:
    """Describe the columns of a catalogue."""
    return (
        "# Columns of a catalogue\n\nColumns that the partitions carry come behind these, under "
        "their own names.\n\n"
        + table(
            ("column", "type", "unit", "UCD", "meaning"),
            (
                (f"`{name}`", c.dtype, c.unit, f"`{c.ucd}`", c.description)
                for name, c in COLUMNS.items()
            ),
        )
    )


def engines() -> str:
    """Describe the engines."""
    return "# Engines\n\n" + table(
        ("engine", "models", "precisions", "computes on", "needs"),
        (
            (
                f"`{e.name}`",
                ", ".join(e.architectures),
                ", ".join(f"{name} ({', '.join(on)})" for name, on in e.precisions.items()),
                ", ".join(e.devices),
                ", ".join(f"`{name}`" for name in e.requires),
            )
            for e in BUILT_IN.values()
        ),
    )


def results() -> str:
    """Describe what an execution leaves behind."""
    return "\n".join(
        (
            "# Records and summary\n",
            "## A rank's record, `<rank>.json`\n",
            schema_table(RankRecord),
            "## `summary.json`\n",
            schema_table(Summary),
            "## `quality` of `summary.json`\n",
            "Each bin has the same figures, with its edges `low` and `high`.\n",
            schema_table(Quality),
            "## `quality` of a rank's record\n",
            schema_table(QualityStatistics),
        )
    )


def python_page(package: str) -> str:
    """Name the public modules of a package, for mkdocstrings."""
    described = []
    for name in PYTHON[package]:
        importlib.import_module(name)  # a module that was moved ends the build here
        described.append(f"::: {name}\n")
    return f"# Python: {package}\n\n" + "\n".join(described)


REFERENCE = {
    "commands": commands,
    "input": lambda: f"# Input of an execution\n\n{schema_table(ExecutionInput)}",
    "results": results,
    "columns": columns,
    "errors": errors,
    "parameters": parameters,
    "engines": engines,
}


def run_notebook(path: Path) -> None:
    """Run a notebook, in a folder that is thrown away, and keep what it shows."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=600,
            resources={"metadata": {"path": folder}},
            coalesce_streams=True,  # a bar that was drawn again and again, once
        )
        nbformat.write(client.execute(), path)


def configuration(pages: Path) -> dict[str, Any]:
    """Return mkdocs' settings: no fonts and no scripts from elsewhere; every doubt is an error."""
    named = {page for section in NAVIGATION.values() for _, page in section}
    there = {str(p.relative_to(pages)) for end in ("md", "ipynb") for p in pages.rglob(f"*.{end}")}
    if forgotten := there - named:
        raise SystemExit(f"scripts/docs_site.py: NAVIGATION lacks {', '.join(sorted(forgotten))}")
    navigation = [
        {section: [{title: page} for title, page in entries if page in there]}
        for section, entries in NAVIGATION.items()
    ]
    palette = [
        {
            "media": f"(prefers-color-scheme: {scheme})",
            "scheme": name,
            "primary": "indigo",
            "toggle": {"icon": "material/brightness-6", "name": f"to {other} mode"},
        }
        for scheme, name, other in (("light", "default", "dark"), ("dark", "slate", "light"))
    ]
    paths = [str(ROOT / "packages" / name) for name in ("cosmicai", "fmilib", "workbench")]
    return {
        "site_name": "CosmicAI",
        "docs_dir": str(pages),
        "site_dir": str(pages.parent / "html"),
        "strict": True,
        "use_directory_urls": False,
        "theme": {
            "name": "material",
            "font": False,
            "palette": palette,
            "features": ["navigation.sections", "content.code.copy", "search.highlight"],
        },
        "validation": {
            "omitted_files": "warn",
            "absolute_links": "warn",
            "unrecognized_links": "warn",
            "anchors": "warn",
        },
        "markdown_extensions": [
            "admonition", "attr_list", "tables", "pymdownx.highlight", "pymdownx.superfences",
            {"toc": {"permalink": True}},
        ],
        "plugins": [
            "material/search",
            {"mkdocs-jupyter": {"execute": False, "include_requirejs": False}},
            {
                "mkdocstrings": {
                    "handlers": {
                        "python": {
                            "paths": paths,
                            "options": {
                                "docstring_style": "numpy",
                                "show_source": False,
                                "show_root_heading": True,
                                "members_order": "source",
                                "filters": ["!^_"],
                            },
                        }
                    }
                }
            },
        ],
        "nav": [section for section in navigation if next(iter(section.values()))],
    }  # fmt: skip


def write(folder: Path) -> None:
    """Write the site's sources and mkdocs' settings into a folder, which is emptied first."""
    pages = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", pages)
    (pages / "reference").mkdir()
    for name, make in REFERENCE.items():
        (pages / "reference" / f"{name}.md").write_text(make())
    for package in PYTHON:
        (pages / "reference" / f"{package}.md").write_text(python_page(package))
    # What `source .venv/bin/activate` does: notebooks call commands.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for notebook in sorted(pages.glob("notebooks/*.ipynb")):
        run_notebook(notebook)
    # JSON is YAML.
    (folder / "mkdocs.yml").write_text(json.dumps(configuration(pages.resolve()), indent=2))


def main() -> None:
    """Write the sources where the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
