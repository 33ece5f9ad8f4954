"""The `ganpo` command. Heavy libraries are imported only by the commands that use them."""

from ganpo_core.cli.main import main

__all__ = ["main"]
