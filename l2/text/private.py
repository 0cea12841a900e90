"""Private information: what looks like an e-mail or IP address or a telephone number, and sites rich in such (§2.1).

Llama 2 leaves out sites with much personal information, and names no more (paper §2.1). As in FineWeb (Penedo et al.
2024, arXiv 2406.17557, §3.7) addresses are e-mail and public IP addresses; telephone numbers are ours, and found only
in forms that dates, prices, ISBNs and tables of numbers do not take:
- international: + and a country code that exists (ITU-T E.164), 8 to 15 digits in groups;
- North American: 212-555-0123, 212.555.0123, (212) 555-0123, 1-800-555-0123.
Placeholders are tags that no one owns, unlike addresses made up at random, and that a second pass leaves alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import open_input

_NAME = r"[^\W_](?:[\w-]{0,61}[^\W_])?"  # of a domain, between dots
_EMAIL = re.compile(rf"(?<![\w.+%'-])[\w+%'-](?:[\w.+%'-]{{0,62}}[\w+%'-])?@(?:{_NAME}\.)+[^\W\d_]{{2,24}}(?![\w-])")
_FILE = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")  # logo@2x.png is a picture

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", re.ASCII)
# The public part of IPv6 is 2000::/3; no C++ name and no time of day begins so.
_IPV6 = re.compile(
    r"(?<![\w.])(?<![\da-f:]:)[23][\da-f]{3}:(?:[\da-f]{0,4}:){1,6}(?:[\da-f]{1,4}|(?<=::))(?![\w:])",
    re.ASCII | re.IGNORECASE,
)

_GAP = "[-. \u00a0\u2010\u2011]"
_COUNTRY = (  # E.164 country codes: one, two or three digits
    r"(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[67])\d|99[2-68])"
)
_INTERNATIONAL = re.compile(
    rf"(?<![\w+])(?:\(\+{_COUNTRY}\)|\+{_COUNTRY})(?:{_GAP}?\(\d{{1,4}}\))?"
    rf"(?:{_GAP}?\d{{2,}}|{_GAP}\d(?={_GAP})){{1,6}}(?![\w%]|[.,]\d)",
    re.ASCII,
)
_AREA = r"[2-9]\d\d"  # also an exchange: neither begins with 0 or 1
_DASH = "[-.\u2010\u2011]"
_AMERICAN = re.compile(
    rf"(?<![\w.+$€£/-])(?:\+?1{_GAP})?"
    rf"(?:\({_AREA}\)[ \u00a0]?{_AREA}(?:{_DASH}| )|{_AREA}({_DASH}){_AREA}\1)\d{{4}}(?![\w-]|[.,]\d)",
    re.ASCII,
)


def _is_email(found: str) -> bool:
    return not found.lower().endswith(_FILE)


def _is_public(found: str) -> bool:
    try:
        return ip_address(found).is_global
    except ValueError:
        return False


def _is_phone(found: str) -> bool:
    return 8 <= sum(map(str.isdigit, found)) <= 15


class Kind(NamedTuple):
    """What `patterns` find and `accept` confirms is private; `placeholder` stands in for it."""

    name: str
    placeholder: str
    mark: str  # no text without it has any
    patterns: tuple[re.Pattern[str], ...]
    accept: Callable[[str], bool]


KINDS = (
    Kind("email", "<EMAIL>", "@", (_EMAIL,), _is_email),
    Kind("ip", "<IP>", "", (_IPV4, _IPV6), _is_public),
    Kind("phone", "<PHONE>", "", (_INTERNATIONAL, _AMERICAN), _is_phone),
)


def replaced(text: str) -> tuple[str, dict[str, int]]:
    """`text` with a placeholder for all that is private, and how much there was: {email, ip, phone}."""
    counts = {kind.name: 0 for kind in KINDS}
    for kind in KINDS:

        def stand_in(match: re.Match[str], kind: Kind = kind) -> str:
            if not kind.accept(match[0]):
                return match[0]
            counts[kind.name] += 1
            return kind.placeholder

        if kind.mark in text:
            for pattern in kind.patterns:
                text = pattern.sub(stand_in, text)
    return text, counts


def _ascii(domain: str) -> str:
    """A host name as registers write it: lower case, IDNA, no dot at either end."""
    domain = domain.lower().strip(".")
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        return domain


def read_blocklist(paths: Iterable[str | Path]) -> frozenset[str]:
    """The domains that the files (.gz, .zst by name) list, one a line; # begins a comment.

    Raises L2Error for a missing file, BadInput for a line that is no domain, such as a pattern, which no host would be.
    """
    domains = set()
    for path in paths:
        if not Path(path).is_file():
            raise L2Error(f"{path}: no such file")
        with open_input(path) as stream:
            for number, line in enumerate(stream, 1):
                domain = line.decode("utf-8", "backslashreplace").partition("#")[0].strip()
                if re.search(r"[\s/:@\\*|^?,$!]", domain):
                    raise BadInput(f"{path}:{number}", repr(domain[:80]), "a domain, such as example.com")
                domains.add(_ascii(domain))
    return frozenset(domains - {""})


def blocked(url: str, domains: frozenset[str]) -> str | None:
    """The one of `domains` that the host of `url` is or lies under; None for others, and where `url` has no host."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return None
    parts = _ascii(host or "").split(".")
    return next((name for i in range(len(parts)) if (name := ".".join(parts[i:])) in domains), None)
