"""Whether a server has answered so far: one that never did is given up sooner."""

from __future__ import annotations


class TrackRecord:
    """What was seen of a server and its model.

    Attributes:
        has_worked: the server has answered anything but errors of its own.
        has_completed: the model has given a completion.
    """

    def __init__(self) -> None:
        self.has_worked = self.has_completed = False

    async def recall(self) -> None:
        """Learn what others have seen; called before an error counts. Here there are no others."""

    def worked(self) -> None:
        """The server answered."""
        self.has_worked = True

    def completed(self) -> None:
        """The model gave a completion."""
        self.has_worked = self.has_completed = True
