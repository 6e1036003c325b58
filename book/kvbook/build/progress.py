"""What the terminal shows while chapters are executed."""

import time


class Progress:
    """Live lines on a terminal; elsewhere one line at the start and the end of each chapter.

    Parameters
    ----------
    stream : file object
        Where to write; `isatty` decides between the two forms.
    """

    width = 24  # characters for the name of a chapter

    def __init__(self, stream):
        self.stream = stream
        self.live = stream.isatty()
        self.rows = {}
        self.drawn = 0
        self.last = 0.0

    def say(self, line):
        """One line that stays."""
        self.erase()
        self.stream.write(line + "\n")
        self.draw()

    def started(self, worker):
        """A chapter begins."""
        self.rows[worker] = "starting its kernel"
        if not self.live:
            self.say(f"{worker.path.stem}: executing")
        self.tick(force=True)

    def cell(self, worker, number, total):
        """A chapter reaches its code cell `number` of `total`."""
        self.rows[worker] = f"cell {number}/{total}"
        self.tick(force=True)

    def finished(self, worker, changed):
        """A chapter is stored."""
        self.erase()
        self.rows.pop(worker, None)
        outcome = "written" if changed else "same result as before"
        self.say(f"{worker.path.stem}: done in {worker.seconds:.1f} s, {outcome}")

    def tick(self, force=False):
        """Redraw the live lines, a few times a second at most."""
        now = time.monotonic()
        if force or now - self.last > 0.5:
            self.last = now
            self.erase()
            self.draw()

    def close(self):
        """Forget the chapters that are still running."""
        self.erase()
        self.rows.clear()
        self.stream.flush()

    def name(self, worker):
        """What a live line calls a chapter."""
        return worker.path.stem

    def erase(self):
        """Take the live lines off the terminal."""
        if self.live and self.drawn:
            self.stream.write(f"\x1b[{self.drawn}A\x1b[J")
        self.drawn = 0

    def draw(self):
        """Put the live lines on the terminal."""
        if self.live:
            for worker, state in self.rows.items():
                name = f"{self.name(worker):<{self.width}.{self.width}}"
                self.stream.write(f"  {name} {state:<20} {worker.seconds:4.0f} s\n")
            self.drawn = len(self.rows)
        self.stream.flush()
