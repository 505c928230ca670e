"""``python -m chatflow.entrypoints.cli``."""

from chatflow.entrypoints.cli.app import main

main()
