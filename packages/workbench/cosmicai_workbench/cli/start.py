"""What the script ``cosmicai`` calls: the command line, whose import Ctrl-C may end as well."""

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from cosmicai_workbench.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("\ncosmicai: interrupted\n")
        return 130
    return run()
