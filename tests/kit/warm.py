"""Axolotl's commands for those who start them by name, as forks of a process that has imported it.

A job script starts `axolotl`, which starts `torchrun`, which starts workers. `commands` writes
commands of these names into a folder that is to be on the PATH. Each hands arguments, environment,
working folder and standard streams to one process that has imported everything, and ends as the
fork ends that works for it. Who kills the command kills its fork, and what the fork has started.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
from typing import Any

SOCKET = "WARM_AXOLOTL"
"""Variable that holds the address of the process."""
WORKER = "axolotl-worker"
_COMMANDS = ("axolotl", "axolotl-ual", "torchrun", WORKER)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@functools.cache
def commands() -> dict[str, str]:
    """Write the commands and start the process, once; gives the variables that they need."""
    import atexit
    import subprocess
    import tempfile
    from pathlib import Path

    import tiny

    scratch = tempfile.TemporaryDirectory()
    folder = Path(scratch.name)
    for name in _COMMANDS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} call {name} "$@"\n')
        path.chmod(0o755)
    variables = {
        **tiny.run_environment(),
        SOCKET: str(folder / "socket"),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    server = subprocess.Popen(
        [sys.executable, __file__, "serve"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(scratch.cleanup)
    atexit.register(server.kill)
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return variables


def _call(arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SOCKET])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        answers = server.makefile()
        fork = int(answers.readline())
        for number in _PASSED_ON:
            signal.signal(number, lambda given, _: os.kill(fork, given))
        code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def _serve() -> None:
    import select

    import tiny_zygote

    said = os.dup(1)
    os.dup2(2, 1)
    tiny_zygote.import_axolotl()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ[SOCKET])
    listener.listen()
    os.write(said, b"ready\n")
    callers: dict[int, socket.socket] = {}
    while True:
        ready = select.select([listener, *callers.values()], [], [], 0.02)[0]
        for fork in [fork for fork, caller in callers.items() if caller in ready]:
            _kill_all(fork)
        if listener in ready:
            fork, caller = _fork(listener)
            callers[fork] = caller
        for fork in list(callers):
            done, status = os.waitpid(fork, os.WNOHANG)
            if done:
                _answer(callers.pop(fork), os.waitstatus_to_exitcode(status))


def _answer(caller: socket.socket, code: int) -> None:
    with caller:
        try:
            caller.sendall(f"{code}\n".encode())
        except BrokenPipeError:
            return  # It was killed.


def _fork(listener: socket.socket) -> tuple[int, socket.socket]:
    caller, _ = listener.accept()
    text, streams, _, _ = socket.recv_fds(caller, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += caller.recv(1 << 16)
    fork = os.fork()
    if not fork:
        os._exit(_work(json.loads(text), streams))
    for stream in streams:
        os.close(stream)
    caller.sendall(f"{fork}\n".encode())
    return fork, caller


def _kill_all(fork: int) -> None:
    """Kill a fork and all that it has started, in whatever session."""
    import psutil

    process = psutil.Process(fork)
    for one in [process, *process.children(recursive=True)]:
        one.kill()


def _work(request: dict[str, Any], streams: list[int]) -> int:
    from tiny_zygote import status_of

    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    name, *arguments = request["arguments"]
    if name == "torchrun":
        module = arguments.index("-m")
        # Its workers are `python -m axolotl.cli.train RECIPE ...`.
        assert arguments[module + 1] == "axolotl.cli.train", arguments
        arguments[module : module + 2] = ["--no-python", WORKER]
    sys.argv = [name, *arguments]
    return status_of(_main(name))


def _main(name: str) -> Any:
    import runpy

    if name == "axolotl":
        from axolotl.cli.main import main
    elif name == "axolotl-ual":
        from axolotl_ual.preprocess.cli import main
    elif name == "torchrun":
        from torch.distributed.run import main
    else:
        return functools.partial(runpy.run_module, "axolotl.cli.train", run_name="__main__")
    return main


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    sys.exit(_call(sys.argv[2:]))
