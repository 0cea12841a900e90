"""Private information in the forms people write it, and everything that only looks like it."""

from __future__ import annotations

import gzip
import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error
from l2.text.private import KINDS, blocked, read_blocklist, replaced

PRIVATE = {
    "email": [
        "john.doe@example.com", "a@b.co", "first+tag@sub.domain.co.uk", "o'neil_7@my-host.museum", "jürgen@müller.de",
        "x%y@1host.org", "JOHN@EXAMPLE.COM",
    ],
    "ip": [
        "8.8.8.8", "93.184.216.34", "199.1.2.3", "2606:4700:4700::1111",
        "2001:4860:4860:0:0:0:0:8888", "2A00:1450:4001:830::200E", "2600::",
    ],
    "phone": [
        "+44 20 7946 0958", "+1 212 555 0123", "+12125550123", "+49 (0)30 901820", "+49 30 901820", "+33 1 23 45 67 89",
        "+86 10 6552 9988", "+91-98765-43210", "+1 (212) 555-0123", "(+44) 20 7946 0958", "+44 (0) 20 7946 0958",
        "212-555-0123", "212.555.0123", "(212) 555-0123", "(212)555-0123", "1-800-555-0199", "1 (800) 555-0199",
        "+1-212-555-0123", "+420 123 456 789", "+972 3 123 4567",
    ],
}  # fmt: skip

HARMLESS = [
    # dates and times
    "2020-10-20", "20.10.2020", "10/20/2020", "1999-2000", "12:30:45", "2023-01-01T12:30:45+02:00", "2020-10-20 12:30",
    "555-1234", "19.10.1987 - 12.12.2020",
    # prices and numbers
    "$1,234.50", "1.234.567,89 EUR", "212 555 0123", "300 400 5000", "$212.555.0123", "3.14159265358979",
    "+1.5 million", "+12 345", "+1234567", "+123 456 789 012 345 678", "+999 123 456 789", "10-20-3000", "+40%",
    "+441234567.5",
    # ISBNs, ISSNs, SSN-like, DOIs, cards, UUIDs, versions, part numbers
    "978-3-16-148410-0", "ISBN 0-306-40615-2", "978-316-148410-0", "9783161484100", "2049-3630", "10.1000/182.212",
    "4111-1111-1111-1111", "550e8400-e29b-41d4-a716-446655440000", "v1.2.3.4", "1.2.3.4.5", "A212-555-0123",
    "212-555-0123-4567", "112-555-0123", "212-155-0123", "212-555.0123",
    # addresses that are nobody's
    "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.254.3", "169.254.0.1", "192.0.2.1", "256.1.1.1", "08.08.08.08",
    "::1", "fe80::1", "2001:db8::1", "std::vector::size", "a::b", "2001:4860:4860::8888::1", "2020: a year",
    "3000::4000:zz", "2012:10:11",
    # at signs
    "user@localhost", "@mention", "me @ home.org", "logo@2x.png", "a@b", "x@y.1", "@media", "name@.com",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "found"), [(kind, found) for kind in PRIVATE for found in PRIVATE[kind]])
@pytest.mark.parametrize("around", ["{}", "Write to {}, or don't.", "({})", "call:{}; now", "Ends so: {}.", "<{}>\n"])
def test_private_information_is_replaced_and_counted(kind, found, around):
    text, counts = replaced(around.format(found))
    assert text == around.format(f"<{kind.upper()}>")
    assert counts == {other.name: int(other.name == kind) for other in KINDS}


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.parametrize("around", ["{}", "It is {}, they say.", "({})"])
def test_what_only_looks_like_it_stays(text, around):
    assert replaced(around.format(text)) == (around.format(text), {"email": 0, "ip": 0, "phone": 0})


def test_several_in_one_text():
    text = "Mail a@b.com or c@d.org from 8.8.4.4 (not 127.0.0.1); tel. +44 20 7946 0958 / 212-555-0123."
    assert replaced(text) == (
        "Mail <EMAIL> or <EMAIL> from <IP> (not 127.0.0.1); tel. <PHONE> / <PHONE>.",
        {"email": 2, "ip": 1, "phone": 2},
    )


@given(st.ip_addresses())
def test_public_addresses_alone_are_private_information(address):
    in_use = address.version == 4 or address in ipaddress.ip_network("2000::/3")
    for text in {str(address), address.exploded}:
        assert replaced(f"from {text} to")[1]["ip"] == int(address.is_global and in_use)


@given(st.text(st.sampled_from("a1.@+-( )2:")))
def test_a_second_pass_finds_nothing_more(text):
    once = replaced(text)[0]
    assert replaced(once) == (once, {"email": 0, "ip": 0, "phone": 0})


@pytest.mark.parametrize(
    "part", ["a", "1", "1.", "+1", "+1 ", "a@", "a@a.", "2001:", "(212) ", "1-", "+49 30 ", "'-", "2:"]
)
def test_long_runs_take_linear_time(part):
    text = part * 100_000
    start = time.process_time()
    replaced(text)
    assert time.process_time() - start < 2


def test_block_lists_hold_domains_and_all_below_them(tmp_path):
    (tmp_path / "a.txt").write_text(
        "# people search\nexample.com  # comment\n\nBücher.example.\n.\nउदाहरण.परीक्षा\n", "utf-8"
    )
    with gzip.open(tmp_path / "b.gz", "wb") as f:
        f.write(b".Sub.Example.org\r\n")
    domains = read_blocklist([tmp_path / "a.txt", tmp_path / "b.gz"])
    assert domains == {"example.com", "xn--bcher-kva.example", "sub.example.org", "xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g"}
    for url, found in [
        ("https://example.com/page?x=1", "example.com"),
        ("http://user:pw@WWW.Example.COM.:8080/", "example.com"),
        ("example.com/page", "example.com"),
        ("//a.b.sub.example.org", "sub.example.org"),
        ("https://www.bücher.example/a", "xn--bcher-kva.example"),
        ("https://notexample.com/", None),
        ("https://example.org/example.com", None),
        ("https://example.com.evil.net/", None),
        ("http://[broken", None),
        ("", None),
    ]:
        assert blocked(url, domains) == found, url


@pytest.mark.parametrize(
    "line", ["http://example.com", "0.0.0.0 example.com", "a@b.com", "*.example.com", "||example.com^"]
)
def test_a_block_list_of_something_else_is_refused(tmp_path, line):
    (tmp_path / "list").write_text(f"example.com\n{line}\n")
    with pytest.raises(BadInput, match=r"list:2: found .*; expected a domain"):
        read_blocklist([tmp_path / "list"])
    with pytest.raises(L2Error, match="none: no such file"):
        read_blocklist([tmp_path / "none"])
