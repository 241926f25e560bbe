"""A process that has imported Axolotl once and forks for every command line it is given.

Importing Axolotl takes twenty seconds; a fork of an interpreter that has done so takes none. Each
command runs in a child of its own, so that nothing one run patches is seen by the next. Reads a
JSON request a line ({arguments, folder, environment, input, output, processes}) and answers
{"returncode": n}. Several processes get the variables that torchrun would give them.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy


def _run(request: dict[str, Any], environment: dict[str, str]) -> int:
    stream = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    # The requests come by the standard input that this child was forked with.
    os.dup2(os.open(request["input"], os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.update(environment)
    sys.argv = ["axolotl", *request["arguments"]]
    from axolotl.cli.main import main

    return status_of(main)


def status_of(main: Callable[[], object]) -> int:
    """Run a command; gives its exit status and leaves what it printed written."""
    try:
        main()
    except SystemExit as done:
        if isinstance(done.code, str):
            print(done.code, file=sys.stderr)
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _hide_installed_plugins() -> None:
    """Make Axolotl see no plugin of another package, as if none were installed."""
    found = importlib.metadata.entry_points

    def hiding(**selection: Any) -> Any:
        points = found(**selection)
        if selection.get("group") != "axolotl.plugins":
            return points
        return [point for point in points if point.value.startswith("axolotl.")]

    importlib.metadata.entry_points = hiding


def import_axolotl() -> None:
    """Do once what each fork would spend seconds on.

    That is the imports, the compilation of the packing, and the search for garbage among imports.
    """
    for name in ("cli.preprocess", "cli.train", "core.builders", "train"):
        importlib.import_module(f"axolotl.{name}")
    multipack = importlib.import_module("axolotl.utils.samplers.multipack")
    for dtype in (numpy.int32, numpy.int64):
        multipack.pack_parallel(numpy.ones(2, dtype=dtype), 2, 2, 2, 1)
    gc.collect()
    gc.freeze()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if os.environ.get("TINY_HIDES_PLUGINS"):
        _hide_installed_plugins()
    import_axolotl()
    for line in sys.stdin:
        request = json.loads(line)
        open(request["output"], "w").close()
        children = [_fork(request, variables) for variables in _environments(request)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        answers.write(json.dumps({"returncode": max(codes, key=abs)}) + "\n")
        answers.flush()


def _fork(request: dict[str, Any], environment: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os._exit(_run(request, environment))


def _environments(request: dict[str, Any]) -> list[dict[str, str]]:
    processes = request["processes"]
    if processes == 1:
        return [request["environment"]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **request["environment"],
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


if __name__ == "__main__":
    _serve()
