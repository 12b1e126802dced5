"""Run the command line as ``python -m adaptermix``."""

from adaptermix.cli import main

main()
