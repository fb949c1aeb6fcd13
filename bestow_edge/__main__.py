"""`python -m bestow_edge` is the command `bestow-edge`."""

from bestow_edge.cli.main import main

main()
