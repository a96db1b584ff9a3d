"""Who may ask: passwords from a file, addresses of this machine alone without one."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from nelbo.base.errors import NelboError

_LEAST_PASSWORD = 8


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine, which others do not reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Users:
    """Names with their passwords."""

    passwords: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Users:
        """Those of a file with a line `name:password` each; empty lines and # are left out.

        Raises:
            NelboError: a file that cannot be read, that others may read, or with a line that is
                no user.
        """
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise NelboError(f"cannot read --auth-file {path}: {why}") from error
        if os.name == "posix" and mode & 0o077:
            raise NelboError(f"--auth-file {path} can be read by others: chmod 600 {path}")
        found: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, password = line.strip().partition(":")
            if not (name and colon):
                raise NelboError(f"{path}, line {number}: expected name:password")
            if len(password) < _LEAST_PASSWORD:
                raise NelboError(
                    f"{path}, line {number}: the password of {name} has fewer than "
                    f"{_LEAST_PASSWORD} characters"
                )
            if name in found:
                raise NelboError(f"{path}, line {number}: there is a user {name} already")
            found[name] = password
        if not found:
            raise NelboError(f"--auth-file {path} holds no users: give a line name:password each")
        return cls(found)

    def admit(self, authorization: str | None) -> bool:
        """Whether a header `Authorization: Basic ...` is that of a user."""
        kind, _, encoded = (authorization or "").partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded, validate=True).decode()
        except ValueError:  # no base64, of no ASCII, or of no UTF-8
            return False
        name, _, password = given.partition(":")
        # All are compared, so that the time does not depend on whose name it is.
        same = [
            hmac.compare_digest(f"{known}:{secret}".encode(), f"{name}:{password}".encode())
            for known, secret in self.passwords.items()
        ]
        return any(same)


def check_address(host: str, users: Users | None) -> None:
    """Raise `NelboError` for an address that others reach, without passwords."""
    if users is None and not is_loopback(host):
        raise NelboError(
            f"--host {host} can be reached from other machines: give --auth-file with a line "
            "name:password for each user, or keep 127.0.0.1 and forward its port by ssh"
        )


def is_own_page(host: str | None, origin: str | None, site: str | None) -> bool:
    """Whether a request comes from a page of this server, or from no page, as a script's.

    Args:
        host: the header `Host`.
        origin: the header `Origin`.
        site: the header `Sec-Fetch-Site`.
    """
    if site not in (None, "same-origin", "none"):
        return False
    return origin is None or _split(origin).netloc == (host or None)


def host_name(header: str | None) -> str:
    """The name in a header `Host`, without its port."""
    return _split(f"//{header or ''}").hostname or ""


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # half a bracket, for instance
        return urlsplit("")
