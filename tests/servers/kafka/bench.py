"""Brings a broker up, measures the gateway beside it, and ends both."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from broker import Cluster, archive

ROOT = pathlib.Path(__file__).resolve().parents[3]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jars", required=True, type=pathlib.Path)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    options, words = parser.parse_known_args()
    archive(options.jars, options.jars.parent / "archive")
    shutil.rmtree(options.folder, ignore_errors=True)
    # The build is done before the broker is there: nothing but the two sides and it shall be at work.
    cargo = [os.environ.get("CARGO", "cargo")]
    for package in ["setgate", "setgate_bench"]:
        subprocess.run([*cargo, "build", "--release", "--locked", "--package", package, "--bin", package], cwd=ROOT, check=True)
    cluster = Cluster(options.jars, options.folder)
    try:
        cluster.start_all()
        run = [*cargo, "run", "--release", "--locked", "--quiet", "--package", "setgate_bench", "--"]
        done = subprocess.run([*run, "kafka", "kafka-source", "--kafka", cluster.address("plaintext"), *words], cwd=ROOT, check=False)
    finally:
        cluster.stop()
        shutil.rmtree(options.folder, ignore_errors=True)
    return done.returncode


sys.exit(main())
