"""`accelerate launch -m ganpo_core train run.yaml`."""

from ganpo_core.cli import main

main()
