"""Run the command line as ``python -m adaptermix``."""

from adaptermix.cli.main import main

main()
