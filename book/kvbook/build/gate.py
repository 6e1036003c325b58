"""Everything that must hold before a change is taken: `make test`, and `.ci/run`.

The stages run one after the other, all of them even when one fails, and the last line says in
one sentence what came out.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

from kvbook.build.chapters import ROOT
from kvbook.build.execute import cores, environment, prepare


@dataclass
class Stage:
    """One command and what became of it."""

    name: str
    command: list
    needs: str = ""
    seconds: float = 0.0
    code: int | None = None
    skipped: int = 0

    @property
    def good(self):
        """Whether it ended well."""
        return self.code == 0


def stages(jobs):
    """The commands of the gate, in order."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-n", str(jobs)]
    # nbval must keep the cells of one notebook together, hence loadfile.
    nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "600", "--dist", "loadfile"]
    render = [*python, "kvbook.build.render"]
    return [
        Stage("ruff check", [*python, "ruff", "check", "."]),
        Stage("ruff format", [*python, "ruff", "format", "--check", "."]),
        Stage("mypy", [*python, "mypy"]),
        Stage("tests", [*pytest, "-m", "not built", "tests"]),
        Stage("notebooks", [*pytest, *nbval, "notebooks"]),
        Stage("book", render),
        Stage("pages", [*pytest, "-m", "built", "-rs", "tests"], needs="book"),
    ]


def perform(stage, done):
    """Run one stage, unless one that it needs failed."""
    print(f"\n=== {stage.name}", flush=True)
    if any(other.name == stage.needs and not other.good for other in done):
        print(f"not run: {stage.needs} failed")
        return
    begin = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in stage.command],
        cwd=ROOT,
        env=environment(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        match = re.search(r"(\d+) skipped", line)
        stage.skipped = int(match.group(1)) if match else stage.skipped
    stage.code = process.wait()
    stage.seconds = time.monotonic() - begin


def summary(done, seconds):
    """One line: what held, what did not, what was skipped, how long it took."""
    failed = [stage.name for stage in done if not stage.good]
    skipped = [f"{stage.skipped} skipped in {stage.name}" for stage in done if stage.skipped]
    times = ", ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in done)
    verdict = f"FAILED: {', '.join(failed)}" if failed else "PASSED"
    extra = f"; {', '.join(skipped)}" if skipped else ""
    return f"{verdict}{extra}; {seconds:.0f} s ({times})"


def main(argv=None):
    """Entry point of `make test`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of the stages to run, parted by commas")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    prepare(ROOT)
    chosen = stages(max(2, min(cores(), 8)))
    if options.only:
        names = [name.strip() for name in options.only.split(",")]
        unknown = set(names) - {stage.name for stage in chosen}
        if unknown:
            parser.error(f"no such stage: {', '.join(sorted(unknown))}")
        chosen = [stage for stage in chosen if stage.name in names]
    done = []
    try:
        for stage in chosen:
            perform(stage, done)
            done.append(stage)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    print("\n" + summary(done, time.monotonic() - begin))
    return 0 if all(stage.good for stage in done) else 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
