"""Scripts in processes that have everything imported already: where imports are not the point, they are most of it."""

import os
import runpy
import sys
import traceback
from pathlib import Path


def call(script: Path, *arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Return a script's exit status and what it said, which lies in ``stdout`` and ``stderr`` of its folder, too."""
    if (process := os.fork()) == 0:
        status: object = 1
        try:
            os.chdir(cwd)
            sys.stdout, sys.stderr = (open(name, "w", encoding="utf-8") for name in ("stdout", "stderr"))  # noqa: SIM115
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stderr.fileno(), 2)
            sys.argv = [str(script), *arguments]
            runpy.run_path(str(script), run_name="__main__")
            status = 0
        except SystemExit as exit:
            status = exit.code or 0
        except BaseException:  # noqa: BLE001 - this process ends here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status if isinstance(status, int) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, (cwd / "stdout").read_text(encoding="utf-8"), (cwd / "stderr").read_text(encoding="utf-8")
