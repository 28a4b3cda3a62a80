"""Graphics cards that a run is planned for without having one: published peak rates, and what is reached of them."""

from __future__ import annotations

from dataclasses import dataclass

from topoflow.checked import look_up

# Shares of the peaks that are assumed to be reached: of operations, in forward and backward passes of a language model
# with transformers' own layers, and of memory's bandwidth, where weights are read to answer a token.
EFFICIENCY = 0.4
BANDWIDTH_EFFICIENCY = 0.7


@dataclass(frozen=True)
class Card:
    """A card as its maker describes it.

    Attributes
    ----------
    name : str
    memory : int
        Bytes.
    bfloat16, float32 : float
        Peak operations a second of matrix products: bfloat16 on tensor cores, dense (data sheets that print the double
        speak of matrices that are half zeros), summed in float32; and float32 without TF32, which PyTorch does not use
        unasked.
    bandwidth : float
        Bytes a second, of its memory.
    source : str
        Who says so.
    """

    name: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float
    source: str


_GB = 10**9
_H100 = "NVIDIA H100 Tensor Core GPU data sheet, H100 SXM"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet, A100"
CARDS = {
    card.name: card
    for card in (
        Card("h100:80", 80 * _GB, 989e12, 67e12, 3.35e12, _H100),
        Card("a100:80", 80 * _GB, 312e12, 19.5e12, 2.039e12, f"{_A100} 80GB SXM"),
        Card("a100:40", 40 * _GB, 312e12, 19.5e12, 1.555e12, f"{_A100} 40GB SXM"),
        Card("l40s:48", 48 * _GB, 362e12, 91.6e12, 0.864e12, "NVIDIA L40S data sheet"),
        Card(
            "4090:24",
            24 * _GB,
            165e12,
            82.6e12,
            1.008e12,
            "NVIDIA Ada GPU architecture white paper, RTX 4090",
        ),
    )
}


def card(name: str) -> Card:
    """The card of a name, with its memory in GB or without, where the first of that name is taken.

    Raises
    ------
    InvalidArgument
        When it is not known.

    Examples
    --------
    >>> card("h100:80") == card("H100"), card("a100").memory, card("a100:40").memory
    (True, 80000000000, 40000000000)
    """
    whole = name.lower()
    found = next((name for name in CARDS if name.partition(":")[0] == whole), whole)
    known: Card = look_up(found, CARDS, "gpu")
    return known
