"""Makes a valid block invalid in exactly one way.

Each mutation is a function of a `Subject`: the chain before the block, the block as nested RLP lists,
and the chain after it. What a mutation gives is judged by EELS like any other block, so nothing
here has to know whether the result really is invalid.
"""

from . import encoding, headers, ommers, transactions
from .subject import RICH, Subject, encode, mutate, mutations

__all__ = [
    "RICH",
    "Subject",
    "encode",
    "encoding",
    "headers",
    "mutate",
    "mutations",
    "ommers",
    "transactions",
]
