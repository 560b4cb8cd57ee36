"""Start a module on several ranks of this machine, as torchrun does, and leave nothing behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys


def torchrun(
    ranks: int, module: str, *arguments: str, seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments…` as `ranks` processes with one thread each.

    seconds: after so many, all of them are ended. They find each other on a free port and talk over
    the loopback interface. Returns exit status and what they wrote, stdout and stderr apart.
    Raises subprocess.TimeoutExpired, once no process is left.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), "-m", module, *arguments]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=local_environment(),
    )
    try:
        out, err = run.communicate(timeout=seconds)
    except BaseException:
        end(run)
        raise
    return subprocess.CompletedProcess(command, run.returncode, out, err)


def local_environment() -> dict[str, str]:
    """This process's environment, for ranks that share its cores and talk over loopback only."""
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    loopback = [name for name in names if name in ("lo", "lo0")]
    interface = {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}
    path = os.pathsep.join(path for path in sys.path if path)
    return {**interface, **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def end(run: subprocess.Popen[str], patience: float = 10.0) -> None:
    """End a launcher, and with it the ranks: asked to go, it ends them first.

    They are in sessions of their own, so a signal to its process group would not reach them; and
    killed at once, it would leave them behind.
    """
    run.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.communicate(timeout=patience)
        return
    run.kill()
    run.wait()
