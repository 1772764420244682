"""Zip files as torch writes them, checked before anything of them is used."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from openvjepa.errors import CheckpointError

_CHUNK = 1 << 20


def check_archive(path: Path) -> None:
    """Check that the members of a zip file are stored without compression, and that their CRC-32 is right.

    torch.load checks neither: it maps compressed members as if they were tensors, and reads flipped bits. The file is read
    once, a chunk at a time (about 5 GB/s where it is in memory already).

    Raises:
        CheckpointError: there is no such file, or a member is compressed, damaged, or larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(
                    f"{path}: damaged or not a checkpoint (is compressed, which torch never does): unpack it and pack it "
                    "again without compression (zip -0 -r)"
                )
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise CheckpointError(f"{path}: damaged or not a checkpoint (its members are larger than the file)")
            for member in members:
                with archive.open(member) as file:  # compares the checksum at the end
                    while file.read(_CHUNK):
                        pass
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, LookupError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:120]
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason})") from None
