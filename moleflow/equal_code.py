"""Code that computes the digits of earlier code, by digest.

A changed module gives every phase that imports it a new digest, and with it new keys of features
and stages, and results that count as stale. Where both codes were run side by side and gave equal
digits, an entry here keeps what the earlier one stored:

    python benchmarks/same_digits.py EARLIER_CHECKOUT

runs sweeps of the embedded images by both, compares every digit, and prints the entries. An entry
claims this for every input that both accept, so read the change before you add one. Without an
entry nothing is taken for equal. Entries of code that has changed again can go.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SAME_DIGITS: Mapping[str, str] = MappingProxyType({})
"""{digest of the code: digest of the earlier code whose digits it computes}, SHA-256 in hex."""


def earliest(digest: str) -> str:
    """The digest of the earliest code that is known to compute the same digits.

    Args:
        digest: SHA-256 in hex.
    """
    while digest in SAME_DIGITS:
        digest = SAME_DIGITS[digest]
    return digest
