"""The command line ``skl-mmap``: one file for each subcommand."""

from skl_mmap.cli._main import main, make_parser

__all__ = ["main", "make_parser"]
