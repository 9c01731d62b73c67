#!/usr/bin/env python3
"""Write the tables of modules in docs/architecture.md from the modules' docstrings.

    python scripts/module_tables.py            rewrite the tables
    python scripts/module_tables.py --check    fail if they are not current

A row is a sub-package or a module outside of one, with the first sentence of its docstring.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = {
    "cosmicai": ROOT / "packages" / "cosmicai" / "cosmicai",
    "cosmicai_workbench": ROOT / "packages" / "workbench" / "cosmicai_workbench",
    "fmilib": ROOT / "packages" / "fmilib" / "fmilib",
}


def first_sentence(path: Path) -> str:
    """Return the first paragraph of a module's docstring, without the full stop and reST marks."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    line = " ".join(text.split("\n\n")[0].split()).removesuffix(".").removesuffix("::").strip()
    line = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line)
    return line.replace("``", "`").replace("|", "\\|")


def table(folder: Path) -> str:
    """Return the table of one package."""
    rows = ["| module | what |", "|---|---|"]
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and not path.name.startswith("__"):
            rows.append(f"| `{path.stem}` | {first_sentence(path)} |")
        elif (path / "__init__.py").is_file():
            inside = [each.stem for each in sorted(path.glob("*.py")) if each.stem[0] != "_"]
            names = ", ".join(f"`{name}`" for name in inside)
            rows.append(f"| `{path.name}/` | {first_sentence(path / '__init__.py')}: {names} |")
    return "\n".join(rows)


def current(page: str) -> str:
    """Return the page with its tables as they should be."""
    for name, folder in PACKAGES.items():
        begin, end = f"<!-- modules of {name} -->", f"<!-- end of modules of {name} -->"
        block = f"{begin}\n{table(folder)}\n{end}"
        page, count = re.subn(f"{begin}.*?{end}", lambda _, b=block: b, page, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"{PAGE}: expected one block {begin} … {end}, found {count}")
    return page


def main() -> None:
    """Write the page, or check it."""
    old = PAGE.read_text()
    new = current(old)
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif new != old:
        sys.exit(f"{PAGE}: the tables of modules are old; run python {Path(__file__).name}")


if __name__ == "__main__":
    main()
