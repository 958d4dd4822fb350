"""``python -m cloacina.cli``: the same as ``cloacinactl``."""

from cloacina.cli.main import main

main()
