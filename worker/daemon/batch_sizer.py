"""How large the next batch is. Pure: it decides, and delivers nothing."""

from __future__ import annotations


class BatchSizer:
    """The size of an entity's next batch, and how many rows at the head of the queue it leaves out.

    A fault halves the batch, and so does the next one, until a record fails alone: a poison record holds up as little
    as possible. It is then skipped, and the rows behind it go, in batches that double up to the maximum.
    """

    def __init__(self, maximum: int) -> None:
        """Begin with a batch of ``maximum`` rows from the head of the queue."""
        self.maximum = self.limit = maximum
        """Rows at most: of any batch, and of the next one."""
        self.skip = 0
        """Rows at the head of the queue that the next batch leaves out."""

    def failed(self, records: int) -> None:
        """Make the next batch smaller, after a fault.

        Args:
            records: of the batch that failed; a single one is skipped from now on. 0: the fault came from none.
        """
        if records == 1:
            self.skip += 1
        self.limit = max(1, records // 2)

    def delivered(self, claimed: int, *, progress: bool) -> bool:
        """Make the next batch larger, after a success.

        Args:
            claimed: rows of the batch.
            progress: whether any of them left the queue, or was postponed. Where none did, as with records that are
                locked in Neon, all of them are skipped.

        Returns:
            Whether more rows may be behind them. Where not, the next batch begins at the head of the queue.
        """
        full = claimed == self.limit
        self.limit = min(self.limit * 2, self.maximum)
        if not full:
            self.skip = 0
        elif not progress:
            self.skip += claimed
        return full

    def rewind(self) -> None:
        """Begin at the head of the queue: nothing is behind the rows that were skipped."""
        self.skip = 0
