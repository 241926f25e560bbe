"""A process that has imported Axolotl once and forks for every command line it is given.

Importing Axolotl takes twenty seconds; a fork of an interpreter that has done so takes none. Each
command runs in a child of its own, so that nothing one run patches is seen by the next. Reads a
JSON request a line ({arguments, folder, environment, output}) and answers {"returncode": n}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def _run(request: dict[str, Any]) -> int:
    stream = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = ["axolotl", *request["arguments"]]
    from axolotl.cli.main import main

    try:
        main()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import axolotl.cli.preprocess
    import axolotl.cli.train
    import axolotl.core.builders
    import axolotl.train  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = _run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
