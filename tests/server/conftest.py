"""One server for the tests that do not change it."""

from collections.abc import Iterator

import pytest
from served import Served, served


@pytest.fixture(scope="package")
def server() -> Iterator[Served]:
    """A server of the demo; nothing is left open at the end."""
    with served(sessions=6, upload_mb=1.0, header_s=2.0, idle_s=4.0, file_s=60.0) as running:
        yield running
        assert running.open_sessions() == 0
