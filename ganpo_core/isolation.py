"""Nothing is imported from the working folder: `python -m ganpo_core` puts it first among the places to import from.

Imported before everything else of the package, and itself importing nothing but what the interpreter holds already.
"""

from __future__ import annotations

import sys


def leave_working_folder() -> None:
    """Take the working folder off the import path where `python -m ganpo_core` (or a launcher that runs it) put it."""
    # While `-m` still looks for its module, argv[0] is "-m", and what follows the module's name is the rest of argv.
    if sys.argv[:1] != ["-m"] or getattr(sys.flags, "safe_path", False):
        return
    module = sys.orig_argv[-len(sys.argv)]
    if module.removeprefix("-m").partition(".")[0] == __name__.partition(".")[0]:
        del sys.path[0]
