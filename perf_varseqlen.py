#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Times a packed engine on random tokens. The engine tells its layout, the rest is perf.py's."""

from helpers.commands import process
from perf import main

if __name__ == "__main__":
    process.main(main)
