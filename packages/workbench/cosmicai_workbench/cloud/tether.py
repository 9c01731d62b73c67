"""Run a command that dies with its parent: ``python tether.py COMMAND ...``.

Run by path, so with the standard library only. PR_SET_PDEATHSIG survives ``exec``, so the kernel
kills the command itself, however the parent ended. The command's process id is printed first,
since the parent may be another program.

"""

import ctypes
import os
import signal
import sys

PROCESS_ID_MARK = "cosmicai-process-id "
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the call above
        sys.exit(1)
    sys.stdout.write(f"{PROCESS_ID_MARK}{os.getpid()}\n")
    sys.stdout.flush()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - replacing this process is the point


if __name__ == "__main__":
    main()
