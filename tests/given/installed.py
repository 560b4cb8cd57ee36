"""The wheel, built and installed: a throw-away environment that borrows this one's PyTorch."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = ("--no-index", "--no-deps", "--disable-pip-version-check")
# What Hugging Face's `kernels` 0.17.2 has of ours by name, and a module that only it has.
OTHER = {
    "kernels/__init__.py": '__version__ = "0.17.2"\nfrom kernels.layer import kernelize\n',
    "kernels/layer/__init__.py": "def kernelize(model):\n    return model\n",
    "kernels/benchmarks/__init__.py": "",
    "kernels/cli/__init__.py": "",
    "kernels-0.17.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: kernels\nVersion: 0.17.2\n",
    "kernels-0.17.2.dist-info/WHEEL": (
        "Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
}


def run(*command: object, cwd: Path, status: int = 0) -> str:
    """Run a command; return what it prints; fail with its errors for another exit status."""
    words = [str(word) for word in command]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def build_wheel(source: Path, into: Path) -> Path:
    """What `pip wheel` makes of a checkout or an sdist, without a network."""
    into.mkdir()
    pip = (sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation")
    run(*pip, "-w", into, source, cwd=into)
    (wheel,) = into.iterdir()
    return wheel


def build_sdist(folder: Path) -> Path:
    """An sdist, built from a copy: setuptools leaves traces where it builds one."""
    skip = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "report", "tests")
    shutil.copytree(ROOT, folder / "copy", ignore=skip)
    code = (
        "import sys; sys.path.insert(0, 'library'); import build_backend as b; b.build_sdist('.')"
    )
    run(sys.executable, "-c", code, cwd=folder / "copy")
    (sdist,) = (folder / "copy").glob("*.tar.gz")
    return sdist


def other_kernels(folder: Path) -> Path:
    """A wheel of the name and the layout of Hugging Face's `kernels`, which needs a network."""
    wheel, record = folder / "kernels-0.17.2-py3-none-any.whl", ""
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in OTHER.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            record += f"{name},sha256={digest.rstrip(b'=').decode()},{len(text)}\n"
            archive.writestr(name, text)
        archive.writestr(
            "kernels-0.17.2.dist-info/RECORD", f"{record}kernels-0.17.2.dist-info/RECORD,,\n"
        )
    return wheel


class Environment:
    """A new virtual environment. It finds this one's packages, but no editable install."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
        self.folder = folder
        self.python = next(path for path in folder.glob("*/python*") if path.stem == "python")
        (self.packages,) = (path for path in folder.rglob("site-packages"))
        here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (self.packages / "borrowed.pth").write_text("\n".join(here) + "\n")

    def pip(self, action: str, *arguments: object) -> None:
        """Install or uninstall here, with the pip of the environment that runs the tests."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        run(*pip, action, *arguments, cwd=self.folder)

    def install(self, wheel: Path) -> None:
        """Install a wheel from its file."""
        self.pip("install", *OFFLINE[:2], wheel)

    def run(self, *arguments: object, status: int = 0) -> str:
        """Run its Python, away from the checkout."""
        return run(self.python, *arguments, cwd=self.folder, status=status)

    def files(self) -> dict[str, bytes]:
        """What is installed, apart from what Python caches."""
        paths = (path for path in self.packages.rglob("*") if path.is_file())
        found = {path.relative_to(self.packages).as_posix(): path for path in paths}
        return {name: p.read_bytes() for name, p in found.items() if "__pycache__" not in name}
