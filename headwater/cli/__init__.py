"""The command line: one function per command; parses, calls, prints."""

import contextlib
import errno
import os
import sys

import tyro

from headwater.cli import judging, looking, making, using
from headwater.errors import InputError, Unhealthy
from headwater.interrupt import Interrupted

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
COMMANDS = {
    f.__name__: f
    for f in (
        making.run,
        looking.look,
        making.pretrain,
        looking.observe,
        looking.probe,
        judging.adapt,
        judging.compare,
        using.predict,
        using.export,
        making.report,
        making.demo,
        making.doctor,
    )
}


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one sentence and exit code 2, a wish to stop is 130. What it writes is the owner's."""
    os.umask(0o077)
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(command, name=name)
    try:
        app.cli(
            prog="headwater",
            description="Pretrain on your own scans. Watch every token. Know whether it was worth it.",
            args=arguments,
        )
    except InputError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
    except Unhealthy as fault:
        print(fault, file=sys.stderr)
        sys.exit(3)
    except (Interrupted, KeyboardInterrupt) as wish:
        print(f"\n{str(wish) or 'Stopped'}. The same command goes on from there.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(1)
    except OSError as fault:
        if fault.errno not in UNWRITABLE:
            raise
        print(
            f"{fault.filename or 'A file'}: {fault.strerror}. Make room or give another place; what is finished is kept.",
            file=sys.stderr,
        )
        sys.exit(2)
