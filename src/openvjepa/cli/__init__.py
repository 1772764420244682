"""The command line: the only place that prints. Help and parsing import neither torch nor numpy."""

from openvjepa.cli.main import main

__all__ = ["main"]
