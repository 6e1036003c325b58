"""What the terminal shows while chapters are executed: tqdm's bar, and lines that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from kvbook.build.chapters import Run

_UNKNOWN_SECONDS = 20.0


class Progress:
    """A bar with the time left on a terminal, and lines that stay.

    Of one run there is a line at each chapter's end (and at its start, where there is no bar); of
    several, as under other seeds, one at the end of each run.

    Parameters
    ----------
    stream : file object
        Where to write; `isatty` decides between the two forms.
    tasks : sequence of (Path, Run)
        All that is to be executed.
    expected : mapping
        Chapter's file name to the seconds it takes, as far as known.
    """

    def __init__(
        self, stream: TextIO, tasks: Sequence[tuple[Path, Run]], expected: Mapping[str, float]
    ) -> None:
        self.stream, self.expected = stream, expected
        self.left = Counter(run.folder for _, run in tasks)
        self.several = len(self.left) > 1
        self.done: dict[tuple[Path, str], float] = {}
        self.running: dict[tuple[Path, str], str] = {}
        self.bar = tqdm(
            total=round(sum(map(self._weight, (path for path, _ in tasks)))),
            file=stream,
            disable=not stream.isatty(),
            bar_format="{percentage:3.0f}% |{bar:20}| {elapsed} < {remaining} {desc}",
            leave=False,
        )

    def _weight(self, path: Path) -> float:
        return self.expected.get(path.name, _UNKNOWN_SECONDS)

    def say(self, line: str) -> None:
        """One line that stays."""
        tqdm.write(line, file=self.stream)
        self.stream.flush()

    def started(self, path: Path, run: Run) -> None:
        """A chapter begins."""
        if self.bar.disable and not self.several:
            self.say(f"{named(path, run)}: executing")
        self.done.pop((path, str(run.folder)), None)  # of an earlier time
        self.running[path, str(run.folder)] = named(path, run)
        self._show()

    def cell(self, path: Path, run: Run, number: int, total: int) -> None:
        """A chapter reaches its code cell `number` of `total`."""
        self.running[path, str(run.folder)] = f"{named(path, run)} {number}/{total}"
        self._advance(path, run, (number - 1) / total)

    def finished(self, path: Path, run: Run, seconds: float, changed: bool) -> None:
        """A chapter is stored."""
        if not self.several:
            outcome = "written" if changed else "same result as before"
            self.say(f"{named(path, run)}: done in {seconds:.1f} s, {outcome}")
        self.ended(path, run)

    def ended(self, path: Path, run: Run) -> None:
        """A chapter is no longer running, whatever came out."""
        self.running.pop((path, str(run.folder)), None)
        self._advance(path, run, 1.0)
        self.left[run.folder] -= 1
        if self.several and not self.left[run.folder]:
            total = self.left.total()
            self.say(f"seed {run.parameters['seed']}: done, {total or 'no'} more to execute")

    def _advance(self, path: Path, run: Run, share: float) -> None:
        key, now = (path, str(run.folder)), share * self._weight(path)
        self.bar.update(now - self.done.get(key, 0.0))
        self.done[key] = now
        self._show()

    def _show(self) -> None:
        self.bar.set_description_str(", ".join(self.running.values()))

    def close(self) -> None:
        """Take the bar away."""
        self.running.clear()
        self.bar.close()


def named(path: Path, run: Run) -> str:
    """What a line calls a chapter: with its seed where it has one of its own."""
    seed = run.parameters.get("seed")
    return path.stem if seed is None else f"{path.stem} seed {seed}"
