"""The command line in the process of the tests, which spares the start of a new one."""

import pytest

from bestow_edge.cli.main import main

IN_BACKGROUND = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
"""Before a command: it ignores Ctrl-C, as all do that a script starts with `&`."""


def run_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of `bestow-edge` with some arguments."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0), *capsys.readouterr()


def run_demo(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the same of the small embedded model, without the last newline of stderr."""
    named = () if "--bundle" in arguments else ("--bundle", "demo")
    code, out, err = run_here(capsys, *arguments, *named)
    return code, out, err.removesuffix("\n")
