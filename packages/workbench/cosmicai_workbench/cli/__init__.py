"""The ``cosmicai`` command: one module a command group; parse, one call, print."""
