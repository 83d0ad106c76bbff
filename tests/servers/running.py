"""How the programs in these folders begin and end: their options, the folder of a run, free ports, what they say and demand."""

import argparse
import asyncio
import contextlib
import os
import pathlib
import random
import shutil
import socket
import sys
import tempfile
import traceback


def say(text):
    print(f"  {text}", flush=True)


def demand(true, what):
    if not true:
        raise AssertionError(what)


def free_ports(number):
    """Ports that nobody listens on, below those that the system gives to outgoing connections."""
    found = []
    while len(found) < number:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def arguments(seed=False):
    """A parser with the options that every program has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True, type=lambda text: pathlib.Path(text).absolute(), help="the binary")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that was good")
    if seed:
        parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    return parser


def play(name, options, run):
    """Calls `run` with a fresh folder, which is kept where the run was not good, and ends the process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"setgate-{name}-", dir=options.gateway.parent))
    good = False
    try:
        good = run(folder)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, the run shows nothing
        traceback.print_exc(file=sys.stdout)
        say(f"FAULT {type(error).__name__}: {error}")
    finally:
        if good and not options.keep:
            shutil.rmtree(folder)
        else:
            say(f"books, logs and stores are kept in {folder}")
    sys.exit(not good)
