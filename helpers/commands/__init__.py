"""What the scripts share: from command line to request, and from result to what is printed and written."""

import os
import sys

# Ctrl-C while a script is still being imported, before `process.main` has the signals, ends it without a traceback too.
sys.excepthook = lambda kind, *error: os._exit(130) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *error)
