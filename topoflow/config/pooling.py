"""Which tokens of a prompt make its point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from topoflow.checked import Whole, checked
from topoflow.errors import InvalidArgument

Kind = Literal["last", "mean"]
Position = Annotated[Whole, Field(ge=-(2**31), le=-1)]


@checked
class Pooling:
    """What is recorded of a prompt's hidden states at a layer: one token's, or the mean over all tokens.

    Parameters
    ----------
    pooling : str
        "last": the state of one token, by default the last; "mean": the mean over all tokens of the prompt, those of
        a template among them and padding not.
    position : int
        Which token, counted from the end as Python does: -1 is the last, -2 the one before. A mean has none.

    Raises
    ------
    InvalidArgument
        When `pooling` is not known, `position` is not negative, or a mean is given one.

    Examples
    --------
    >>> Pooling().words, Pooling("last", -2).words, Pooling("mean").words
    ('last token', 'token -2 (counted from the end)', 'mean of all tokens')
    """

    pooling: Kind = "last"
    position: Position = -1

    def __post_init__(self) -> None:
        if self.pooling == "mean" and self.position != -1:
            raise InvalidArgument("position", "left at -1 where pooling is mean", self.position)

    @property
    def of_last_token(self) -> bool:
        """Whether a point is the state from which the model answers."""
        return self == Pooling()

    @property
    def words(self) -> str:
        """What is recorded, for manifests."""
        if self.pooling == "mean":
            return "mean of all tokens"
        return "last token" if self.position == -1 else f"token {self.position} (counted from the end)"

    @property
    def point(self) -> str:
        """What a point is, for sentences.

        >>> Pooling().point, Pooling("mean").point
        ('hidden state of the last token', 'mean hidden state of all tokens')
        """
        if self.pooling == "mean":
            return "mean hidden state of all tokens"
        return f"hidden state of {'the ' * (self.position == -1)}{self.words}"

    def check_lengths(self, lengths: Sequence[int], name: str) -> None:
        """Refuse prompts without a token at the position, by their numbers of tokens and what the caller calls them.

        >>> Pooling("last", -3).check_lengths([3, 2], "prompts")
        Traceback (most recent call last):
        topoflow.errors.InvalidArgument: position must be at least -2, since prompts[1] has 2 tokens, got -3
        """
        fewest = min(lengths)
        if fewest < -self.position:
            counted = f"{name}[{lengths.index(fewest)}] has {fewest} token{'s' * (fewest != 1)}"
            raise InvalidArgument("position", f"at least {-fewest}, since {counted}", self.position)
