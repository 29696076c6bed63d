"""A scrape between two readings of the same workers: what moved must lie between the two."""

from collections.abc import Iterator
from dataclasses import dataclass

from .readings import Reading, Source, read
from .scraped import Scrape, scrape
from .workers import Worker


@dataclass(frozen=True)
class Window:
    """One scrape, and for each worker the readings `before` and `after` it."""

    before: dict[Worker, Reading]
    scrape: Scrape
    after: dict[Worker, Reading]

    def both(self) -> Iterator[tuple[Worker, Reading, Reading]]:
        """Each worker with its two readings."""
        for worker, before in self.before.items():
            yield worker, before, self.after[worker]

    def compare(
        self,
        name: str,
        source: Source,
        *,
        slack: float = 0.0,
        **labels: str,
    ) -> int:
        """Compare each worker's `name`, summed over its samples with `labels`, with `source`.

        The value must lie between those of the two readings, give or take `slack`, and be absent
        where both are None. Returns how many workers had a value; raises AssertionError.
        """
        wrong = []
        compared = 0
        for worker, before, after in self.both():
            value = self.scrape.total(name, worker.labels | labels)
            ends = (source(before), source(after))
            if ends == (None, None):
                if value is not None:
                    wrong.append(f"{worker.unit}: {value} where there is no figure")
                continue
            compared += 1
            low, high = sorted(end for end in ends if end is not None)
            if value is None or not low - slack <= value <= high + slack:
                wrong.append(f"{worker.unit}: {value} is not in {low}..{high}")
        assert not wrong, f"{name} {labels or ''}:\n  " + "\n  ".join(wrong)
        return compared


def look(workers: tuple[Worker, ...]) -> Window:
    """Read, scrape, read again."""
    before = read(workers)
    answer = scrape()
    return Window(before, answer, read(workers))
