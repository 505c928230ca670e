"""The command line: the script ``chatflow``, also ``python -m chatflow.entrypoints.cli``."""

from chatflow.entrypoints.cli.app import main

__all__ = ["main"]
