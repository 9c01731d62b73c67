"""Who imports whom in the packages, read from their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = Path(__file__).parents[1] / "packages"
ROOTS = {
    "fmilib": PACKAGES / "fmilib",
    "cosmicai": PACKAGES / "cosmicai",
    "cosmicai_workbench": PACKAGES / "workbench",
}


def modules() -> dict[str, Path]:
    """Return dotted name → file of every module."""
    found = {}
    for name, folder in ROOTS.items():
        for path in sorted((folder / name).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, late: bool = True) -> Iterator[str]:
    """Yield what a module imports, but for types alone; ``late``: inside of functions, too."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif late or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)


def graph(*, late: bool = True) -> dict[str, set[str]]:
    """Return module → the modules of ours that it imports."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        edges[name] = set()
        for target in imports(path, late=late):
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != name:
                edges[name].add(target)
    return edges


def part_of(module: str) -> str:
    """Return the sub-package that a module belongs to, or the module itself outside of one."""
    return ".".join(module.split(".")[:2])


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        pending = [start]
        while pending:
            for target in edges.get(pending.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
        return seen

    reach = {node: reached(node) for node in edges}
    groups = {
        frozenset({node} | {other for other in reach[node] if node in reach.get(other, ())})
        for node in edges
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def parts(*, late: bool = True) -> dict[str, set[str]]:
    """Return the graph of sub-packages."""
    edges: dict[str, set[str]] = {}
    for module, targets in graph(late=late).items():
        here = edges.setdefault(part_of(module), set())
        here |= {part_of(target) for target in targets} - {part_of(module)}
    return edges
