"""A Python that has imported the libraries already, for tests that type many commands.

What takes a command most of its time here is the import of torch, transformers, TRL and MLflow: up to ten seconds each
time. `python`, and `topoflow`, `dvc` and `mlflow` beside it, ask one process that has imported them to fork, and the
command runs in that fork: a process of its own, in the folder, environment and process group of whoever began it, which
imports topoflow afresh. A signal that the command gets is handed on, and where it is killed, the fork is. It is no
child of whoever began it: tests that look for the children of a command type into the real environment.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MODULES = ("topoflow", "dvc", "mlflow")
# Stands in for python: it hands over what it was given, and ends as the fork ends. Light, as it starts each time.
CLIENT = """#!{python} -ISE
import json, os, signal, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name != "python":
    arguments = ["-m", name, *arguments]
if arguments[:1] == ["-u"]:
    os.environ["PYTHONUNBUFFERED"] = "1"
    del arguments[0]
if arguments[:1] not in (["-m"], ["-c"]) and not (arguments and arguments[0].endswith(".py")):
    os.execv({python!r}, [{python!r}, *arguments])
place = os.path.dirname(os.path.abspath(sys.argv[0]))
asked = dict(arguments=arguments, folder=os.getcwd(), group=os.getpgid(0), place=place, environment=dict(os.environ))
data = json.dumps(asked).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect(place + "/socket")
    socket.send_fds(server, [b"%010d" % len(data)], [0, 1, 2])
    server.sendall(data)
    answers = server.makefile("r")
    pid = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(answers.readline() or 99)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""
LIBRARIES = """
import accelerate, datasets, joblib, matplotlib.figure, mlflow, numba, peft, scipy.optimize, scipy.stats
import sklearn.linear_model, sklearn.manifold, torch, transformers, trl
import dvc.cli, dvc.commands.repro, dvc.repo, mlflow.cli, mlflow.projects, mlflow.store.tracking.sqlalchemy_store
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer
from trl import SFTConfig, SFTTrainer
"""


@contextmanager
def forking(folder: Path, environment: dict[str, str], python: str = sys.executable) -> Iterator[Path]:
    """Lay down the programs, which are forks of this Python meanwhile: put `folder` first on PATH."""
    folder.mkdir(parents=True)
    for name in ("python", *MODULES):
        (folder / name).write_text(CLIENT.format(python=sys.executable), encoding="utf-8")
        (folder / name).chmod(0o755)
    command = [python, __file__, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield folder
        finally:
            process.kill()


def _serve(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Fork for each client, and tell it how the fork ended; returns in each fork, with what was asked."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.listen(64)
    ended, woken = os.pipe()
    for end in (ended, woken):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    waiting: dict[int, socket.socket] = {}
    ready = selectors.DefaultSelector()
    ready.register(server, selectors.EVENT_READ)
    ready.register(ended, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fd == ended:
                os.read(ended, 4096)
                for pid, client in list(waiting.items()):
                    found, status = os.waitpid(pid, os.WNOHANG)
                    if found:
                        with suppress(OSError):
                            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                        with suppress(KeyError):  # gone before
                            ready.unregister(client)
                        waiting.pop(pid).close()
                continue
            if key.data is not None:  # the client is gone
                ready.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
                continue
            client, _ = server.accept()
            length, handed, _, _ = socket.recv_fds(client, 10, 3)
            data = b""
            while len(data) < int(length):
                data += client.recv(int(length) - len(data))
            asked = json.loads(data)
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                ready.close()
                for other in (server, client, *waiting.values()):
                    other.close()
                os.close(ended), os.close(woken)
                return asked, handed
            client.sendall(f"{pid}\n".encode())
            waiting[pid] = client
            ready.register(client, selectors.EVENT_READ, pid)
            for number in handed:
                os.close(number)


def _become(asked: dict[str, Any], handed: list[int], path: list[str]) -> None:
    """Run in this process what a Python would run that was begun with these arguments, there."""
    with suppress(OSError):  # of another session
        os.setpgid(0, asked["group"])
    for number, given in enumerate(handed):
        os.dup2(given, number)
        os.close(given)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.executable = f"{asked['place']}/python"
    for name in [name for name in sys.modules if name.partition(".")[0] == "topoflow"]:
        del sys.modules[name]
    further = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.orig_argv = [sys.executable, *asked["arguments"]]
    first, *rest = asked["arguments"]
    begin = os.path.dirname(os.path.abspath(first)) if first.endswith(".py") else os.getcwd()
    sys.path[:] = [begin, *further, *path]
    if any(os.path.exists(f"{entry}/sitecustomize.py") for entry in further):
        sys.modules.pop("sitecustomize", None)
        import sitecustomize  # noqa: F401
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = asked["arguments"]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    own = sys.path[1:]  # without the folder of this file
    exec(LIBRARIES)
    gc.freeze()
    given = _serve(Path(sys.argv[1]))
    status = 0
    try:
        _become(*given, own)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # as a Python ends, but for the taking apart of all that was imported, which takes seconds
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)
