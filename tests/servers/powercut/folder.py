"""A folder as the disk's cache has it, and as the disk may have it after a power cut.

What a flush (`fsync`, `fdatasync`) covered is on the disk: the bytes of a file and its size, the entries of a folder. Of everything after
that, any part may be:

- A write is whole, missing, or torn at sectors of 512 bytes, whatever became of writes before and after it. A sector holds what the cache
  held at some moment since the last flush; it never holds a later write without the part of an earlier one in the same sector.
- A file has one of the sizes that it had since the last flush. What was never written within that size reads as zeros.
- An entry (a file made, renamed, removed) is done or not. In the model `ordered` the file system does them in their order, as ext4 does. In
  the model `apart` each is done or not by itself, until its folder has been flushed; what was flushed itself has its entry too, as with
  ext4, XFS and Btrfs. In the model `strict` it has not, as POSIX allows. A rename is done or not, and never half.
- A file has the mode that it was last given.
"""

import os
import stat

SECTOR, BLOCK = 512, 4096
ZEROS = bytes(BLOCK)
MODELS = ("ordered", "apart", "strict")
# How much of what was not flushed is there: nothing, all of it, writes or sectors at random, all up to a moment, all from a moment on, all
# but one sector of each file.
WAYS = ("nothing", "everything", "writes", "sectors", "until", "since", "hole")


class Unknown(Exception):
    """The record holds what this program cannot follow."""


class Folder:
    def __init__(self, mode=0o755):
        self.mode = mode
        # What the cache says, and what the disk has.
        self.now, self.kept = {}, {}


class File:
    def __init__(self, mode=0o644):
        self.mode = mode
        # What the disk has: blocks by number, those without a byte but zero may be missing.
        self.blocks, self.size = {}, 0
        # What came since: (number, offset, bytes), or (number, size, None).
        self.pending = []
        self.length = 0
        # Whether a process may have changed it since it was last laid on the disk.
        self.touched = False

    def write(self, number, offset, data):
        self.pending.append((number, offset, data))
        self.length = max(self.length, offset + len(data))

    def resize(self, number, size):
        self.pending.append((number, size, None))
        self.length = size

    def flushed(self, began):
        """What came before this moment is on the disk."""
        rest = []
        for change in self.pending:
            if change[0] < began:
                self.size = apply(self.blocks, self.size, change)
            else:
                rest.append(change)
        self.pending = rest

    def cached(self):
        """Blocks and size as the cache has them."""
        blocks, size = {number: bytearray(block) for number, block in self.blocks.items()}, self.size
        for change in self.pending:
            size = apply(blocks, size, change)
        return blocks, size


def apply(blocks, size, change):
    """Makes a change, and returns the size after it."""
    _, at, data = change
    if data is None:
        if at < size:
            for number in [number for number in blocks if number * BLOCK + BLOCK > at]:
                keep = at - number * BLOCK
                if keep <= 0:
                    del blocks[number]
                else:
                    blocks[number][keep:] = ZEROS[keep:]
        return at
    put(blocks, at, data)
    return max(size, at + len(data))


def put(blocks, at, data):
    done = 0
    while done < len(data):
        number, start = divmod(at + done, BLOCK)
        part = data[done : done + BLOCK - start]
        block = blocks.get(number)
        if block is None:
            block = blocks[number] = bytearray(BLOCK)
        block[start : start + len(part)] = part
        done += len(part)


class World:
    """Everything below one folder, followed through the record of one process after the other."""

    def __init__(self, root):
        self.root = str(root)
        self.top = Folder()
        self.descriptors = {}
        # Changes of entries since the last cut: [number, touched folders, steps, whether their
        # folder was flushed, whether what they name was]; and up to which one the order has flushed them.
        self.forget()

    def forget(self):
        self.changes, self.floor = [], 0
        # Of these, by folder those that no flush has covered, and by file or folder those that name it.
        self.open_changes, self.naming = {}, {}

    # What is there at the beginning.

    @classmethod
    def look(cls, root):
        """The folder as it is, all of it on the disk."""
        world = cls(root)
        world.top = look(world.root)
        return world

    # Following.

    def begin(self):
        """A process starts."""
        self.descriptors = {}

    def follow(self, entry):
        match entry.what:
            case "open":
                self.open(entry)
            case "close":
                self.descriptors.pop(entry.a, None)
            case "dup":
                self.descriptors[entry.b] = self.descriptors[entry.a]
            case "write":
                self.file(entry).write(entry.number, entry.b, entry.first)
            case "size":
                self.file(entry).resize(entry.number, entry.b)
            case "mode":
                node = self.descriptors[entry.a] if entry.a >= 0 else self.at(entry.first)
                node.mode = stat.S_IMODE(entry.b)
            case "flush":
                pass
            case "flushed":
                self.flushed(self.descriptors[entry.a], entry.b)
            case "mkdir":
                folder, name = self.parent(entry.first)
                self.enter(entry, folder, name, Folder(stat.S_IMODE(entry.b) & ~0o022))
            case "unlink" | "rmdir":
                folder, name = self.parent(entry.first)
                self.change(entry, [folder], [(folder, name, folder.now[name], None)])
                del folder.now[name]
            case "rename":
                self.rename(entry)
            case "link":
                folder, name = self.parent(entry.second)
                self.enter(entry, folder, name, self.at(entry.first))
            case "strange":
                raise Unknown(f"{entry.first.decode()} {entry.second.decode()} at record {entry.number}")
            case "sent" | "start":
                pass

    def file(self, entry):
        node = self.descriptors[entry.a]
        if not isinstance(node, File):
            raise Unknown(f"record {entry.number} writes to a folder")
        return node

    def parts(self, path):
        text = path.decode() if isinstance(path, bytes) else path
        if not text.startswith(self.root):
            raise Unknown(f"{text} is outside")
        return [part for part in text[len(self.root) :].split("/") if part not in ("", ".")]

    def at(self, path):
        node = self.top
        for part in self.parts(path):
            node = node.now[part]
        return node

    def parent(self, path):
        *folders, name = self.parts(path)
        node = self.top
        for part in folders:
            node = node.now[part]
        return node, name

    def open(self, entry):
        flags, mode = entry.b & 0xFFFFFFFF, entry.b >> 32
        try:
            node = self.at(entry.first)
        except KeyError:
            if not flags & os.O_CREAT:
                raise Unknown(f"{entry.first.decode()} was opened and nobody made it, at record {entry.number}") from None
            folder, name = self.parent(entry.first)
            node = File(stat.S_IMODE(mode))
            self.enter(entry, folder, name, node)
        if isinstance(node, File) and flags & (os.O_WRONLY | os.O_RDWR):
            node.touched = True
            if flags & os.O_TRUNC and node.length:
                node.resize(entry.number, 0)
        self.descriptors[entry.a] = node

    def change(self, entry, folders, steps):
        change = [entry.number, folders, steps, False, False]
        self.changes.append(change)
        for folder in folders:
            self.open_changes.setdefault(id(folder), []).append(change)
        for _, _, _, after in steps:
            if after is not None:
                self.naming.setdefault(id(after), []).append(change)

    def enter(self, entry, folder, name, node):
        self.change(entry, [folder], [(folder, name, None, node)])
        folder.now[name] = node

    def rename(self, entry):
        old, name = self.parent(entry.first)
        new, other = self.parent(entry.second)
        node = old.now.pop(name)
        self.change(entry, [old, new], [(old, name, node, None), (new, other, None, node)])
        new.now[other] = node

    def flushed(self, node, began):
        if isinstance(node, File):
            node.flushed(began)
        rest = []
        for change in self.open_changes.get(id(node), ()):
            if change[0] < began:
                change[3] = True
                self.floor = max(self.floor, change[0])
            else:
                rest.append(change)
        self.open_changes[id(node)] = rest
        for change in self.naming.get(id(node), ()):
            change[4] |= change[0] < began

    def files(self):
        """Every file with its path."""
        left = [("", self.top)]
        while left:
            path, node = left.pop()
            if isinstance(node, Folder):
                left.extend((f"{path}/{name}", one) for name, one in node.now.items())
            else:
                yield path, node

    # Cutting.

    def cut(self, random, model, way):
        """Turns the folder into one that the disk may have now, and tells what became of what was not flushed."""
        told = dict.fromkeys(("whole", "missing", "torn", "late", "entries done", "entries missing", "shorter"), 0)
        self.settle_entries(random, model, way, told)
        for node in every(self.top):
            if isinstance(node, File):
                settle(node, random, way, told)
        self.descriptors = {}
        self.forget()
        return told

    def settle_entries(self, random, model, way, told):
        share = random.choice([0.2, 0.5, 0.8])
        moment = random.randint(0, len(self.changes))
        for index, (number, _, steps, flushed, named) in enumerate(self.changes):
            if way in ("nothing", "everything"):
                done = way == "everything"
            elif model == "ordered":
                done = index < moment
            else:
                done = random.random() < share
            certain = number <= self.floor if model == "ordered" else flushed or named and model == "apart"
            if not certain:
                told["entries done" if done else "entries missing"] += 1
            if certain or done:
                for folder, name, before, after in steps:
                    if after is not None:
                        folder.kept[name] = after
                    elif folder.kept.get(name) is before:
                        del folder.kept[name]
        for node in every(self.top, kept=True):
            if isinstance(node, Folder):
                node.now = dict(node.kept)

    # Laying it on the disk.

    def lay(self):
        """Makes the real folder what this one is. Folders that are there stay the same."""
        lay(self.top, self.root)

    def differences(self):
        """How the real folder differs from what the cache must have."""
        found = []
        differ(self.top, self.root, found)
        return found


def every(folder, kept=False):
    """Every file and folder."""
    seen, left = set(), [folder]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, Folder):
            left.extend((node.kept if kept else node.now).values())


def settle(file, random, way, told):
    """Decides what of the changes that were not flushed is there."""
    file.touched |= bool(file.pending)
    if not file.pending:
        return
    pending, file.pending = file.pending, []
    moment, share = random.randint(0, len(pending)), random.choice([0.2, 0.5, 0.8])
    if way == "hole":
        moment = random.choice([index for index, change in enumerate(pending) if change[2]] or [0])
    blocks, size = {number: bytearray(block) for number, block in file.blocks.items()}, file.size
    sizes, fates, last = [size], [], {}
    for index, change in enumerate(pending):
        size = apply(blocks, size, change)
        sizes.append(size)
        _, at, data = change
        if data is None:
            continue
        sectors = range(at // SECTOR, (at + len(data) + SECTOR - 1) // SECTOR)
        chosen = choose(sectors, index, random, way, moment, share)
        for sector in chosen:
            number, start = divmod(sector * SECTOR, BLOCK)
            block = file.blocks.setdefault(number, bytearray(BLOCK))
            there = blocks.get(number, ZEROS)
            block[start : start + SECTOR] = there[start : start + SECTOR]
            last[sector] = index
        fate = "whole" if len(chosen) == len(sectors) else "torn" if len(chosen) else "missing"
        told[fate] += 1
        if fate != "missing" and any(earlier != "whole" for earlier in fates):
            told["late"] += 1
        fates.append(fate)
    match way:
        case "nothing":
            which = 0
        case "everything" | "hole":
            which = len(pending)
        case "until":
            which = moment
        case _:
            which = random.randint(0, len(pending))
    if sizes[which] < sizes[-1]:
        told["shorter"] += 1
    # A size that was made smaller on the way has cut off what was behind it.
    for index, (_, at, data) in enumerate(pending[:which]):
        if data is None and at < sizes[index]:
            trim(file.blocks, at, {sector for sector, by in last.items() if by > index})
    file.size = file.length = sizes[which]
    apply(file.blocks, max(sizes), (0, file.size, None))


def choose(sectors, index, random, way, moment, share):
    match way:
        case "nothing":
            return []
        case "everything":
            return sectors
        case "writes":
            return sectors if random.random() < share else []
        case "sectors":
            # Most writes are small: half of them are whole or missing, the others torn where they can be.
            fate = random.random()
            if fate < 0.5:
                return sectors if fate < 0.25 else []
            return [sector for sector in sectors if random.random() < share]
        case "until":
            if index == moment and len(sectors) > 1:
                return sectors[: random.randint(0, len(sectors))]
            return sectors if index < moment else []
        case "since":
            return sectors if index >= moment else []
        case "hole":
            gone = random.choice(sectors) if index == moment else None
            return [sector for sector in sectors if sector != gone]


def trim(blocks, at, later):
    """Makes zeros of what is behind a size, but for sectors that are there as they were later."""
    for number in [number for number in blocks if number * BLOCK + BLOCK > at]:
        block = bytearray(blocks[number])
        for start in range(0, BLOCK, SECTOR):
            begin = number * BLOCK + start
            if begin // SECTOR not in later and begin + SECTOR > at:
                keep = max(0, at - begin)
                block[start + keep : start + SECTOR] = bytes(SECTOR - keep)
        blocks[number] = block


def look(path):
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        node = Folder(stat.S_IMODE(about.st_mode))
        node.now = {entry.name: look(entry.path) for entry in os.scandir(path)}
        node.kept = dict(node.now)
        return node
    node = File(stat.S_IMODE(about.st_mode))
    node.size = node.length = about.st_size
    node.inode = about.st_ino
    node.blocks = contents(path)
    return node


def contents(path):
    """The blocks of a file that are not all zeros."""
    blocks, at = {}, 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            at -= at % BLOCK
            while at < end:
                block = os.pread(file.fileno(), BLOCK, at)
                if block.strip(b"\0"):
                    blocks[at // BLOCK] = bytearray(block.ljust(BLOCK, b"\0"))
                at += BLOCK
    return blocks


def lay(folder, path):
    there = {entry.name: entry for entry in os.scandir(path)}
    for name, entry in there.items():
        node = folder.now.get(name)
        if node is None or isinstance(node, Folder) != entry.is_dir(follow_symlinks=False):
            remove(entry.path)
    for name, node in folder.now.items():
        whole = os.path.join(path, name)
        if isinstance(node, Folder):
            if not os.path.isdir(whole):
                os.mkdir(whole)
            os.chmod(whole, node.mode)
            lay(node, whole)
        elif node.touched or name not in there or moved(node, whole):
            remove(whole)
            fill(node, whole)
    os.chmod(path, folder.mode)


def moved(node, path):
    """Whether another file lies there, as far as a look at it tells."""
    return getattr(node, "inode", None) != os.stat(path).st_ino


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in os.scandir(path):
            remove(entry.path)
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def fill(node, path):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for number, block in sorted(node.blocks.items()):
            at = number * BLOCK
            os.pwrite(handle, block[: node.size - at] if at + BLOCK > node.size else block, at)
        os.ftruncate(handle, node.size)
        os.fchmod(handle, node.mode)
        node.inode, node.touched = os.fstat(handle).st_ino, False
    finally:
        os.close(handle)


def differ(folder, path, found):
    there = {entry.name: entry for entry in os.scandir(path)}
    for name in sorted(set(there) | set(folder.now)):
        whole = os.path.join(path, name)
        if name not in folder.now:
            found.append(f"{whole} is there and was never recorded")
        elif name not in there:
            found.append(f"{whole} was recorded and is not there")
        elif isinstance(folder.now[name], Folder):
            differ(folder.now[name], whole, found)
        else:
            node, about = folder.now[name], os.stat(whole)
            blocks, size = node.cached()
            if (size, node.mode) != (about.st_size, stat.S_IMODE(about.st_mode)):
                found.append(f"{whole} has {about.st_size} bytes, mode {about.st_mode:o}; recorded are {size}, {node.mode:o}")
            real = contents(whole)
            own = {number: block for number, block in blocks.items() if block.strip(b"\0")}
            wrong = sorted(number for number in set(real) | set(own) if real.get(number) != own.get(number))
            if wrong:
                found.append(f"{whole} differs in {len(wrong)} blocks, the first at byte {wrong[0] * BLOCK}")
