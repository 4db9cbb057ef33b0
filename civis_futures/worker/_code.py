"""The user's own modules, which come as zips: unpacked once, and found before those of the image.

Unpacked, since a package reads its files by their paths. Imported only where there are any.
"""

from __future__ import annotations

import os
import shutil  # which a zip needs anyway
import sys
import zipfile

_used: list[str] = []  # the folders that this process has


def unpacked(archives: list[str], target: str) -> None:
    """Put all that is in these zips into one folder, where modules find what lies next to them.

    Raises:
        OSError: there is no room, or no right to write.
        ValueError: one is no zip, or has names that lead elsewhere.
    """
    if os.path.isdir(target):
        return
    aside = f"{target}.{os.urandom(4).hex()}"  # one that is not whole has another name
    try:
        for archive in archives:
            with zipfile.ZipFile(archive) as source:
                for info in source.infolist():
                    _unpack(source, info, aside)
        os.rename(aside, target)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)  # the room that it takes
        if isinstance(error, zipfile.BadZipFile):
            raise ValueError(str(error)) from error
        raise


def tidy(folder: str, kept: list[str]) -> None:
    """Remove what was unpacked there, but these: a process that had other versions is gone."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith("code-") and path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _unpack(source: zipfile.ZipFile, info: zipfile.ZipInfo, folder: str) -> None:
    parts = info.filename.split("/")
    if not all(parts) or ".." in parts:
        raise ValueError(f"not a name of a module: {info.filename!r}")
    path = os.path.join(folder, *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with source.open(info) as data, open(path, "wb") as file:
        while chunk := data.read(1 << 20):
            file.write(chunk)
    os.chmod(path, info.external_attr >> 16 & 0o777)


def use(folders: list[str]) -> None:
    """Find modules in these folders first, also those that were imported from elsewhere before.

    What is in folders that were used before is the same, as far as it is in the new ones.
    """
    sys.path[:0] = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    new = [folder for folder in dict.fromkeys(folders) if folder not in _used]
    _used.extend(new)
    tops = {name.removesuffix(".py"): folder for folder in new for name in os.listdir(folder)}
    for name, module in list(sys.modules.items()):
        folder = tops.get(name.partition(".")[0])
        if folder is not None and _replaces(folder, name) and not _is_ours(module):
            del sys.modules[name]


def _replaces(folder: str, name: str) -> bool:
    """Whether the folder has this module, or another version of its package."""
    top = os.path.join(folder, name.partition(".")[0])
    whole = os.path.join(folder, *name.split("."))
    inits = os.path.join(top, "__init__.py"), os.path.join(whole, "__init__.py")
    return any(map(os.path.isfile, (f"{top}.py", f"{whole}.py", *inits)))


def _is_ours(module: object) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and any(file.startswith(folder + os.sep) for folder in _used)
