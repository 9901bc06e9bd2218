"""The image of the Docker sandbox: one interpreter with its standard library and the libraries that these need.

It is made of the Python that runs this, so no registry is asked; a program finds no shell, no other program and no
site-packages in it. An image of a registry, by name or digest, serves as well: it needs a `python3` on its PATH and
must declare no volumes, for those can be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from academy.arena.sandbox.bubblewrap import find_python
from academy.errors import EngineError, ExaminationError
from academy.system import images
from academy.system.images import Image

IMAGE = f"academy-sandbox:{images.VERSION}"
CONTENT = "academy-sandbox.content"
"""The label with the digest of what went in."""
HOW = "Make it: academy sandbox --make-image. Or name another with ACADEMY_SANDBOX_IMAGE and fetch it: docker pull."


def find_image(client: Any, name: str) -> Image:
    """The image of this name. Raises ExaminationError where it is not there or cannot contain a program."""
    try:
        found = images.find_image(client, name, HOW)
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem
    if found.volumes:
        raise ExaminationError(
            f"The image {name} declares volumes ({', '.join(found.volumes)}), which a program could fill.", HOW
        )
    return found


def make_image(client: Any) -> Image:
    """Make the image of this Python on an engine, in place of an earlier one. Needs `ldd` and some ten seconds."""
    try:
        images.make_image(client, IMAGE, CONTENT, images.python_files(Path(find_python())))
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem
    return find_image(client, IMAGE)
