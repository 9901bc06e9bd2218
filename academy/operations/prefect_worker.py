"""`python -m academy.operations.prefect_worker --pool POOL --name NAME`: a worker of this home.

It uses the server in PREFECT_API_URL, or the home's own. Its options are those of Prefect's `worker start`.
"""

from __future__ import annotations

import os
import sys

from academy.errors import AcademyError, HomeError
from academy.home.private import be_private
from academy.operations.prefect_server import configure, running, use_own_server
from academy.operations.prefect_settings import import_prefect
from academy.settings import load_settings


def main() -> None:
    """Work until a signal comes. Ends with code 2 where there is no server."""
    be_private()
    try:
        settings = load_settings()
        configure(settings)
        if "PREFECT_API_URL" not in os.environ:
            url = running(settings)
            if not url:
                raise HomeError("No Prefect server is running.", "Start one with `make pages`, or set PREFECT_API_URL.")
            use_own_server(settings, url)
    except AcademyError as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    import_prefect(settings)  # without the settings of the folder that it starts in
    from prefect.cli import app

    import academy.operations.home_worker  # noqa: F401  takes the place of Prefect's worker for process pools

    sys.argv = ["prefect", "worker", "start", "--type", "process", "--limit", "1", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
