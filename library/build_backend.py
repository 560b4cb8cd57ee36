"""Builds the wheel: `reference/` and `kernels/` under one name, `flash_decoding_course`.

In the repository both are top-level packages, so that a lesson can say `from kernels.softmax import
softmax`. Installed like that, `kernels` would share a folder with Hugging Face's package of the
same name: installing ours would overwrite files of theirs, and removing either would break the
other. So in the wheel they are `flash_decoding_course.reference` and
`flash_decoding_course.kernels`.

    pip install -e .    setuptools alone: the folders as they are
    pip install .       pip wheel .      python -m build      from here or from an sdist: `stage`
                        lays the wheel's sources out in a temporary folder, setuptools packs them

The hooks are those of PEP 517 and PEP 660; pip and build call them in the project's folder.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from rename import renamed
from setuptools import build_meta

# An editable install and an sdist hold the repository's own folders.
from setuptools.build_meta import (  # noqa: F401
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

NAME = "flash_decoding_course"
PACKAGES = ("reference", "kernels")
METADATA = ("pyproject.toml", "README.md", "LICENSE")  # what setuptools reads
Settings = Mapping[str, Any] | None


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel into wheel_directory; return its file name."""
    with _staged():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Write the wheel's `.dist-info` into metadata_directory; return that folder's name."""
    with _staged():
        return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def stage(root: Path, target: Path) -> None:
    """Lay out in `target` what the wheel is made from: the metadata, and one package, NAME.

    root: a checkout, or an unpacked sdist. Raises ValueError for a module that cannot be renamed.
    """
    for name in METADATA:
        shutil.copy(root / name, target)
    skip = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*")
    shutil.copytree(root / "library" / NAME, target / NAME, ignore=skip)
    for package in PACKAGES:
        shutil.copytree(root / package, target / NAME / package, ignore=skip)
    sources = {path.relative_to(target / NAME): path for path in (target / NAME).rglob("*.py")}
    for inside, path in sources.items():
        if inside.parts[0] in PACKAGES:
            text = path.read_text(encoding="utf-8")
            path.write_text(renamed(text, inside, sources, NAME), encoding="utf-8")


@contextmanager
def _staged() -> Iterator[None]:
    """Work in a staged folder for a while. The directories that a hook gets are absolute."""
    with tempfile.TemporaryDirectory() as folder:
        stage(Path.cwd(), Path(folder))
        with chdir(folder):
            yield
