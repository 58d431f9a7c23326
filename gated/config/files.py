"""The two files that are read: the configuration's bytes, and the scan user's password.

Outside facts: systemd.exec(5), "Credentials": each is a file in ``$CREDENTIALS_DIRECTORY``, which systemd
itself keeps from other users.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from gated.config.schema import Config
from gated.errors import ConfigError

CREDENTIAL = "api-password"  # the name in the unit's LoadCredential=
# The reference file has 20 kB. Whatever is above this is another file, or a device that never ends.
_MOST_BYTES = 256 * 1024


def content(path: Path, *, absent: str, private: bool = False) -> bytes:
    """What is in the file at ``path``; :class:`ConfigError` if it can't be read.

    ``absent`` is the hint if there is no such file, or a wrong one. A ``private`` file that others can read
    is refused.
    """
    try:
        with path.open("rb") as file:
            if private:
                _refuse_shared(path, file)
            read = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError((f"{path}: there is no such file",), hint=absent) from None
    except IsADirectoryError:
        raise ConfigError((f"{path} is a directory, not a file",), hint=absent) from None
    except PermissionError:
        hint = f"Look at its owner and mode: ls -l {path}. The service's group must be able to read it."
        raise ConfigError((f"{path}: gated may not read this file",), hint=hint) from None
    except OSError as error:
        hint = "Check the disk and the path."
        raise ConfigError((f"{path} can't be read: {error.strerror}",), hint=hint) from None
    if len(read) > _MOST_BYTES:
        raise ConfigError((f"{path} is longer than {_MOST_BYTES} bytes: is it the right file?",), hint=absent)
    return read


def password(config: Config, credentials_directory: Path | None) -> str:
    """The scan user's password: in ``api.password_file``, else the systemd credential ``api-password``.

    ``credentials_directory`` is systemd's ``$CREDENTIALS_DIRECTORY``. One line end after the password is not
    part of it. :class:`ConfigError` if there is none, if it is empty or no text, or if others can read the
    file: it may be its owner's alone (chmod 600), or root's and read by one group (chmod 640).
    """
    if config.api.password_file is not None:
        path, private = config.api.password_file, True
    elif credentials_directory is not None:
        path, private = credentials_directory / CREDENTIAL, False
    else:
        raise ConfigError(("there is no password for the API",), hint=_where())
    return _text(path, content(path, absent=_where(), private=private))


def _where() -> str:
    return (
        "Write the password alone into a file, name it in [api] password_file, and: chown root:gated FILE; "
        f"chmod 640 FILE. Or give the service the systemd credential {CREDENTIAL}."
    )


def _text(path: Path, read: bytes) -> str:
    try:
        text = read.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError((f"{path} is not UTF-8 text",), hint=_where()) from None
    if not text:
        raise ConfigError((f"{path} is empty: there is no password for the API",), hint=_where())
    return text


def _refuse_shared(path: Path, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    mode = stat.S_IMODE(status.st_mode)
    allowed = 0o740 if status.st_uid == 0 else 0o700
    if mode & ~allowed:
        raise ConfigError(
            (f"{path} can be read or written by others (mode {mode:03o}): it holds a password",),
            hint=f"chown root:gated {path}; chmod 640 {path}",
        )
