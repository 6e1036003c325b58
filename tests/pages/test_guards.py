"""Every committed chapter against every guard, and every guard against a broken chapter."""

import copy
import re
from pathlib import Path

import guards
import nbformat
import pytest
from kvbook.build import pages
from kvbook.ledger import CLAIMS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROSE = [p for p in sorted((ROOT / "book").glob("*.md")) if p.name != "claims.md"]
PROSE += [ROOT / "README.md"]
LOCAL = "/" + "home/someone/kv"


def chapter():
    """A small chapter with which every guard is content."""
    figure = new_code_cell(
        "plot()",
        execution_count=3,
        metadata={
            "tags": [guards.FIGURE_TAG],
            "mystnb": {
                "figure": {"caption": "The measured law is the predicted one.", "name": "fig-law"},
                "image": {"alt": "Histogram with the density drawn over it."},
            },
        },
        outputs=[new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})],
    )
    glue = new_output(
        "display_data",
        {guards.GLUE + "text/plain": "0.361234"},
        metadata={"scrapbook": {"name": "distortion", "mime_prefix": guards.GLUE}},
    )
    verdict = new_output(
        "execute_result",
        {"text/plain": "T03: SUPPORTED", "application/vnd.kvlib.verdict+json": {"id": "T03"}},
        execution_count=2,
    )
    text = """# Title

Claim C01 rests on T03. With $D(1)=0.31$ the error is {glue:text}`distortion:.3f`, in a 95%
interval; see Section 3.2 of [the paper](https://arxiv.org/abs/2605.08114), Python 3.11, `x = 0.5`.

```{admonition} The paper states
:class: paper-states
The ratio is 2.25 and the distortion 0.361.
```

```python
x = 0.25
```

:::{admonition} Prediction
:class: prediction
We expect 0.25 within 0.01.
:::

$$
\\int f = 1.2345
$$
"""
    return new_notebook(
        cells=[
            new_markdown_cell(text),
            new_code_cell("glue(1)", execution_count=1, outputs=[glue]),
            new_code_cell("verdict", execution_count=2, outputs=[verdict]),
            figure,
        ]
    )


# ------------------------------------------------------------ the chapters as they are


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda guard: guard.__name__)
def test_chapter(path, guard):
    assert guard(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("guard", guards.GUARDS_OF_ALL, ids=lambda guard: guard.__name__)
def test_all_chapters(guard):
    assert guard({path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_names_known_claims(path):
    assert guards.claims_known(nbformat.read(path, as_version=4), CLAIMS) == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_page_has_no_typed_result(path):
    # A page's sections stand in for a chapter's cells: a `typed:` comment covers its section.
    text = path.read_text(encoding="utf-8")
    # Tables written by the build are its business.
    text = re.sub(r"<!-- generated: .*?<!-- end of generated", "", text, flags=re.DOTALL)
    sections = re.split(r"^(?=#{1,3} )", text, flags=re.MULTILINE)
    found = {s.split("\n")[0]: guards.typed_numbers(s) for s in sections}
    assert {heading: numbers for heading, numbers in found.items() if numbers} == {}


def test_there_are_chapters_to_guard():
    assert CHAPTERS, "notebooks/ is empty: the guards above would pass without looking"


def test_chapters_are_stored_in_their_one_form():
    from kvbook.build.storing import normalise, serialise

    for path in CHAPTERS:
        stored = path.read_text(encoding="utf-8")
        assert serialise(normalise(nbformat.reads(stored, as_version=4))) == stored, path.name


def test_generated_pages_are_current():
    assert [path.name for path in pages.outdated(ROOT)] == []


def test_every_chapter_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert [path.stem for path in CHAPTERS if f"notebooks/{path.stem}" not in toc] == []


# -------------------------------------------------------------------- negative controls


def raised(n):
    n.cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def warned(n):
    n.cells[1].outputs.append(new_output("stream", name="stderr", text="Warning: slow"))


def never_executed(n):
    n.cells[1].execution_count = None


def out_of_order(n):
    n.cells[1].execution_count, n.cells[2].execution_count = 2, 1


def injected(n):
    n.cells.insert(1, new_code_cell("seed = 7", metadata={"tags": ["injected-parameters"]}))


def papermill_cell(n):
    n.cells[1].metadata["papermill"] = {"duration": 0.1}


def papermill_notebook(n):
    n.metadata["papermill"] = {"duration": 0.1}


def execution_times(n):
    n.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}


def same_id(n):
    n.cells[1].id = n.cells[2].id


def no_caption(n):
    del n.cells[3].metadata["mystnb"]["figure"]["caption"]


def short_alt(n):
    n.cells[3].metadata["mystnb"]["image"]["alt"] = "a plot"


def no_name(n):
    del n.cells[3].metadata["mystnb"]["figure"]["name"]


def no_figure_settings(n):
    del n.cells[3].metadata["mystnb"]


def repeated_caption(n):
    settings = n.cells[3].metadata["mystnb"]
    settings["image"]["alt"] = settings["figure"]["caption"]


def hidden_number(n):
    n.cells[3].outputs.append(new_output("stream", name="stdout", text="KL 0.12"))


def tagged_text(n):
    n.cells[2].metadata["tags"] = [guards.FIGURE_TAG]


def untagged_picture(n):
    n.cells[3].metadata["tags"] = []


def skipped(n):
    n.cells[2].metadata["tags"] = ["nbval-skip"]


def skipped_by_comment(n):
    n.cells[2].source = "# NBVAL_IGNORE_OUTPUT\nverdict"


def unknown_kind(n):
    n.cells[2].outputs[0].data["application/x-strange"] = "?"


def unshown(n):
    del n.cells[2].outputs[0].data["text/plain"]


def local_path(n):
    n.cells[1].outputs.append(new_output("stream", name="stdout", text=f"loaded {LOCAL}/a.npz"))


def local_source(n):
    n.cells[1].source = f"load('{LOCAL}/a.npz')"


def memory_address(n):
    n.cells[2].outputs[0].data["text/plain"] = "<Codebook object at 0x7f0a1b2c3d4e>"


def too_big(n):
    n.cells[3].outputs[0].data["image/png"] = "A" * (guards.LARGEST_BYTES + 1)


def defining(lines, kind="def judge():"):
    """A cell that defines something of so many lines, the first one counted in."""
    return new_code_cell("\n".join([kind, *["    pass"] * (lines - 1)]), execution_count=4)


def long_function(n):
    n.cells.append(defining(guards.MOST_DEFINITION_LINES + 1))


def long_class(n):
    n.cells.append(defining(guards.MOST_DEFINITION_LINES + 1, "class Result:"))


def long_inner_function(n):
    inner = ["class Result:", "  def judge(self):", *["    pass"] * guards.MOST_DEFINITION_LINES]
    n.cells.append(new_code_cell("%matplotlib inline\n" + "\n".join(inner), execution_count=4))


def hidden_inputs(n):
    for cell in n.cells[1:3]:
        cell.metadata["tags"] = ["hide-input"]


def removed_cells(n):
    for cell in n.cells[1:3]:
        cell.metadata["tags"] = ["remove-cell"]


def appended(text):
    def change(n):
        n.cells[0].source += "\n\n" + text

    change.__name__ = f"typed {text!r}"
    return change


BROKEN = {
    guards.no_error: [raised],
    guards.no_stderr: [warned],
    guards.executed_in_order: [never_executed, out_of_order],
    guards.no_leftovers: [injected, papermill_cell, papermill_notebook, execution_times],
    guards.unique_ids: [same_id],
    guards.figures_described: [
        no_caption,
        short_alt,
        no_name,
        no_figure_settings,
        repeated_caption,
    ],
    guards.only_pictures_unchecked: [
        hidden_number,
        tagged_text,
        untagged_picture,
        skipped,
        skipped_by_comment,
    ],
    guards.outputs_shown: [unknown_kind, unshown],
    guards.no_local_paths: [local_path, local_source, memory_address],
    guards.no_long_definition: [long_function, long_class, long_inner_function],
    guards.code_shown: [hidden_inputs, removed_cells],
    guards.small_enough: [too_big],
    guards.no_typed_result: [
        appended("The distortion is 0.361."),
        appended("KL falls by 12.3%."),
        appended("KL falls by 37 %."),
        appended("It is 1.5e-3 at most, or 2e-5."),
        appended("| n | D |\n|---|---|\n| 1 | 0.36 |"),
        appended("**0.361**"),
        appended("A value of $x$ near 0.5 and $y$."),
        appended("```{note}\nWe found 0.5 here.\n```"),
        appended(
            "````{admonition} We measure\n:class: we-measure\n```\ncode 0.1\n```\nand 0.2\n````"
        ),
    ],
    guards.no_typed_twin: [
        appended("$D(1) = 0.361$"),
        appended("$$\nD = 0.36123\n$$"),
        appended("```{note}\n$D=0.3612$\n```"),
    ],
}
CASES = [(guard, change) for guard, changes in BROKEN.items() for change in changes]


def test_every_guard_has_a_negative_control():
    assert list(BROKEN) == guards.GUARDS


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda guard: guard.__name__)
def test_guard_accepts_a_good_chapter(guard):
    assert guard(chapter()) == []


@pytest.mark.parametrize(
    ("guard", "change"), CASES, ids=lambda item: getattr(item, "__name__", str(item))[:60]
)
def test_guard_catches(guard, change):
    broken = copy.deepcopy(chapter())
    change(broken)
    assert guard(broken) != []


def test_a_definition_may_have_a_few_lines_and_a_third_of_the_cells_be_hidden():
    good = chapter()
    good.cells.append(defining(guards.MOST_DEFINITION_LINES))
    good.cells[1].metadata["tags"] = ["hide-input"]
    assert guards.no_long_definition(good) == guards.code_shown(good) == []


def test_a_function_that_two_chapters_define_is_caught():
    first, second = chapter(), chapter()
    for made, name in ((first, "judge"), (second, "table")):
        made.cells.append(defining(3, f"def {name}():"))
        made.cells.append(defining(3, "def __repr__(self):"))
    assert guards.defined_once({"01": first, "02": second}) == []
    second.cells.append(defining(2))
    second.cells.append(defining(3))  # anew in one chapter: its own affair
    (found,) = guards.defined_once({"01": first, "02": second})
    assert "judge is defined in 01, 02" in found


def test_much_code_is_caught():
    made = new_notebook(cells=[new_code_cell("x = 1\n\n" * guards.MOST_CODE_LINES)])
    assert guards.little_code({"01": made}) == []
    made.cells.append(new_code_cell("x = 2"))
    assert len(guards.little_code({"01": made})) == 1


def test_unknown_claims_are_caught():
    assert guards.claims_known(chapter(), ["C01", "T03"]) == []
    assert guards.claims_known(chapter(), ["C01"]) != []


@pytest.mark.parametrize(
    "text",
    [
        "Some prose <!-- typed: published constant, TurboQuant --> with 0.117.",
        "The levels 90%, 95% and 99.9% are conventions; 128 is a size.",
        "Licence CC BY 4.0, Lemma 3.5, version 1.0.4, arXiv:2504.19874.",
        "Cited as [2024](https://example.org/v1.2/x), code `0.25`, formula $0.25$.",
        "It is <!-- glue: 02_sphere::ks:.3f -->0.012<!-- /glue --> wide.",
        "{glue:text}`../notebooks/02_sphere.ipynb::ks:.3f` and {numref}`fig-0.5`.",
    ],
)
def test_numbers_that_are_no_results(text):
    assert guards.typed_numbers(text) == []


@pytest.mark.parametrize(
    ("digits", "value", "same"),
    [
        ("0.361", 0.361234, True),
        ("0.361", -0.361234, True),
        ("0.362", 0.361234, False),
        ("0.36", 0.361234, True),
        ("1.5e-3", 0.00151, True),
        ("1.5e-3", 0.00157, False),
    ],
)
def test_same_number(digits, value, same):
    assert guards.same_number(digits, value) is same
