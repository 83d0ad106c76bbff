"""The small disk of the store: mounted in a namespace of its own, filled up, emptied, measured."""

import errno
import os
import shutil
import subprocess

CHUNK = 1 << 20


class Disk:
    def __init__(self, folder, size):
        self.folder, self.filler = folder, folder / "filler"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"no small disk could be mounted, and a full one must be shown: {done.stderr.strip()}")

    def free(self):
        seen = os.statvfs(self.folder)
        return seen.f_bavail * seen.f_frsize

    def fill(self, leave=0):
        """Takes what is free, to the last byte where nothing is to be left."""
        with open(self.filler, "ab", buffering=0) as file:
            chunk = CHUNK
            while True:
                want = min(chunk, self.free() - leave) if leave else chunk
                if want <= 0:
                    return
                try:
                    file.write(b"\x01" * want)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    if chunk <= 4096:
                        return
                    chunk = 4096

    def empty(self):
        self.filler.unlink(missing_ok=True)

    def close(self, keep=None):
        """Unmounts it; where its files are wanted they are copied there first."""
        self.empty()
        if keep is not None:
            shutil.copytree(self.folder, keep, dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def taken(self):
        """Bytes of all files, the filler's not among them."""
        return sum(self.parts().values())

    def parts(self):
        """Bytes of files by what they are: journals, the tables of each kind of keyspace, and the folders beside the engine's."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name == "filler":
                    continue
                path = os.path.join(folder, name)
                try:
                    size = os.stat(path).st_blocks * 512
                except FileNotFoundError:
                    continue
                words = os.path.relpath(path, self.folder).split(os.sep)[1:]
                part = "/".join(words[:-1] if not name.endswith(".jnl") else [*words[:-1], "journals"]) or "."
                found[part] = found.get(part, 0) + size
        return found


def deleted(pid):
    """Bytes of files that a process holds open although they are deleted, and how many they are."""
    found, number = 0, 0
    for one in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(one.path).endswith(" (deleted)"):
                found, number = found + os.stat(one.path).st_blocks * 512, number + 1
        except FileNotFoundError:
            continue
    return found, number
