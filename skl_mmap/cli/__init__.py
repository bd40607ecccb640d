"""The command line ``skl-mmap``: one file for each subcommand."""

from skl_mmap.cli._main import main

__all__ = ["main"]
