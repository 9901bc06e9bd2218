"""The image of the Docker sandbox: one interpreter with its standard library and the libraries that these need.

It is made from the Python that runs this, without a registry. It contains no shell, no other program and no
site-packages. An image of a registry, by name or digest, works too: it needs a `python3` on its PATH and must not
declare volumes, because those are writable.
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
"""The label with the digest of the content."""
REMEDY = (
    "Create it: academy sandbox --make-image. Or set ACADEMY_SANDBOX_IMAGE to another image and fetch it: docker pull."
)


def find_image(client: Any, name: str) -> Image:
    """The image of this name. Raises ExaminationError where it does not exist or declares volumes."""
    try:
        image = images.find_image(client, name, REMEDY)
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem
    if image.volumes:
        raise ExaminationError(
            f"The image {name} declares volumes ({', '.join(image.volumes)}), which a program could fill.", REMEDY
        )
    return image


def make_image(client: Any) -> Image:
    """Create the image of this Python on an engine, replacing an earlier one. Needs `ldd` and about ten seconds."""
    try:
        images.make_image(client, IMAGE, CONTENT, images.python_files(Path(find_python())))
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem
    return find_image(client, IMAGE)
