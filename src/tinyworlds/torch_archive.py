"""The zip archive that a torch file is, looked through so that torch reads in it what is read here and nothing else."""

import os
import struct
import zipfile
from pathlib import Path, PurePosixPath

LARGEST_PICKLE = 2 * 2**20
"""Bytes: some 10,000 tensors."""
LARGEST_DIRECTORY = 4 * 2**20
"""Bytes: what describes the entries, again some 10,000."""
END, END_64, LOCATOR_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
"""The last records of a zip file (PKWARE's APPNOTE, sections 4.3.14 to 4.3.16)."""


class RefusedError(ValueError):
    """With the sentence for the user, which lacks the name of the file."""


def unpack(path: Path) -> tuple[bytes, dict[str, int]]:
    """The pickle of a torch file, and how many bytes each of its records has, by its name.

    Raises:
        RefusedError: it is no torch file, or one that torch would not write.
        zipfile.BadZipFile: it is damaged.
    """
    _check_layout(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        # torch looks a record up by its name in any case.
        if len({name.lower() for name in names}) < len(names):
            raise RefusedError("holds two entries of one name")
        tops = {name.partition("/")[0] for name in names}
        for entry in entries:
            name = entry.orig_filename
            outside = "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts or len(tops) > 1
            if outside or not name.isprintable():
                raise RefusedError(f"holds an entry {name!r}, which is outside the folder of a torch file")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise RefusedError("is compressed, which torch files are not")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise RefusedError("declares more bytes than it has")
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
        if "data.pkl" not in sizes:
            raise RefusedError("is no file of torch: it has no data.pkl")
        if sizes["data.pkl"] > LARGEST_PICKLE:
            raise RefusedError(f"describes its tensors in more than {LARGEST_PICKLE} bytes")
        (pickle,) = (name for name in names if name.partition("/")[2] == "data.pkl")
        if damaged := archive.testzip():  # torch does not look
            raise RefusedError(f"is damaged in {damaged}")
        return archive.read(pickle), sizes


def _check_layout(path: Path) -> None:
    """Refuse a file that begins or ends as a torch file does not, in which torch may read what Python does not.

    Two readers of a zip agree on its entries where it begins with the first, and its directory lies directly
    before the records at the end, which say so. torch takes a file that begins otherwise for one of before 2020.
    """
    with path.open("rb") as file:
        begin = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END.size - LOCATOR_64.size - END_64.size))
        tail = file.read()
    if begin != b"PK\x03\x04" or tail[-END.size :][:4] != b"PK\x05\x06":
        raise RefusedError("is no file of torch, or is damaged")
    *_, length, offset, comment = END.unpack(tail[-END.size :])
    ends = size - END.size
    if tail[: -END.size][-LOCATOR_64.size :][:4] == b"PK\x06\x07":
        _, _, located, _ = LOCATOR_64.unpack(tail[-END.size - LOCATOR_64.size : -END.size])
        ends -= LOCATOR_64.size + END_64.size
        if located != ends or tail[:4] != b"PK\x06\x06":
            raise RefusedError("has its directory where torch does not write it")
        *_, length, offset = END_64.unpack(tail[: END_64.size])
    if comment or offset + length != ends:
        raise RefusedError("has its directory where torch does not write it")
    if length > LARGEST_DIRECTORY:
        raise RefusedError(f"describes its entries in more than {LARGEST_DIRECTORY} bytes")
