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

SAME_DIGITS: Mapping[str, str] = MappingProxyType(
    {
        # Compared with commit 6957723: versions and decoflow, epochs=1, learning_rate=1e-3.
        # Scoring and rows have no entry: AP and F1-max became undefined where a class has one kind
        # of test image.
        "4875a3661bdb331443f9bbaad113c69c70144ac6e46bc3cbc348b49e1232aa11": (  # defects
            "c15b1f471ae63f90ce8f262caabef29927d8ab23238c9cadfd69b624355d9fb9"
        ),
        "10312fecfee5037628f25407f2ea2e7d79b6df02cb2f5060ced18bb73308d5b2": (  # features
            "b765d61a93a095267a6aa2e343836e2989cb86a0a6492a4ac475d383390f2d87"
        ),
        "f305eef55a641ab5017c196398082f9f4fc47b7ae39b2ded77680201a46766e8": (  # training
            "27b5820a944ae1ff4c3f6f1873fe14199c0158904eaf5eab7d1b4a21a2433795"
        ),
        "57bf2534f8514bebe8fc5402885fd5261c27d2309f6e7818a544350820c84114": (  # bank
            "7a735ddff626edb2d6d93172585f74ed51b331502526a36b6e1c28bd194b585f"
        ),
        # Compared with commit 14f129a, before files could be those of another process: versions,
        # epochs=1; and generated defects.
        "368063168e3d5789db35c282ed339f8a5c038f771674b200bce8125f4ca2f75c": (  # defects
            "4875a3661bdb331443f9bbaad113c69c70144ac6e46bc3cbc348b49e1232aa11"
        ),
        "dd912f4bf250b41bbc5e536b5b0bf6da8ad26ae6d0f80a007c874b49561d5dec": (  # rows
            "161aacef860903392ee7e81cd76c785f037969cd97352c36284192b13f2f7105"
        ),
        # Compared with commit 30f6a3d, before lanes, compiled training and AdamP without waits:
        # all versions, epochs=1, train_images=20, test_images=10, on the CPU. On a GPU, AdamP sums
        # in another order now; nothing had been stored from one.
        "3c242aa53336d11b9d7824d22605c71303609c81189af5dd06c021a3002970da": (  # defects
            "4875a3661bdb331443f9bbaad113c69c70144ac6e46bc3cbc348b49e1232aa11"
        ),
        "db0c0cf35565cd5a55092846fd5e2beac71a896b7ac5c81f6de95f509029e441": (  # features
            "10312fecfee5037628f25407f2ea2e7d79b6df02cb2f5060ced18bb73308d5b2"
        ),
        "8a723cc391ad3785583cd642c3ecb1f8f2a4b18f626e90b5e6f7eb4ab3f01d80": (  # training
            "f305eef55a641ab5017c196398082f9f4fc47b7ae39b2ded77680201a46766e8"
        ),
        "0623946e2bcea7f2c41f7d14f16d124cfd326bc3bc54ae718053279a9c725e63": (  # bank
            "57bf2534f8514bebe8fc5402885fd5261c27d2309f6e7818a544350820c84114"
        ),
        "0ad595f333dec29e6949d59acda0363b3397529e7dbf7b89802623ee446e5241": (  # scoring
            "1454492e3b3a0a4f2c2b634ec90bd0c533c03de2b2e124cf447cb77573073d8f"
        ),
        "f9ca62768a8937a122c516541a18df84dbb152f08ed78d4cc0d23e68eef5e1a3": (  # rows
            "161aacef860903392ee7e81cd76c785f037969cd97352c36284192b13f2f7105"
        ),
    }
)
"""{digest of the code: digest of the earlier code whose digits it computes}, SHA-256 in hex."""


def earliest(digest: str) -> str:
    """The digest of the earliest code that is known to compute the same digits.

    Args:
        digest: SHA-256 in hex.
    """
    while digest in SAME_DIGITS:
        digest = SAME_DIGITS[digest]
    return digest
