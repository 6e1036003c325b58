"""What a committed chapter must not contain; each guard returns its complaints.

A guard is a function of one notebook (nbformat 4), or of all of them by name, and gives a list of
strings, empty where all is well. `test_guards.py` holds every chapter against every guard,
and every guard against a chapter that was broken so that it must speak.
"""

import ast
import re
from dataclasses import dataclass

from kvbook.build.staleness import python_source

FIGURE_TAG = "nbval-ignore-output"
SHORTEST_CAPTION = 30
SHORTEST_ALT = 30
LARGEST_BYTES = 2_000_000
SHOWN = {"text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/svg+xml"}
STORED = {"application/vnd.kvlib.verdict+json"}
GLUE = "application/papermill.record/"


def code_cells(notebook):
    """(number, cell) of the code cells that hold code, counted from 1."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    return list(enumerate(cells, start=1))


def markdown_cells(notebook):
    """(number, source) of the markdown cells, counted from 1."""
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    return list(enumerate(texts, start=1))


def is_image(output):
    """Whether an output shows a picture."""
    return any(kind.startswith("image/") for kind in output.get("data", {}))


# ----------------------------------------------------------------- execution


def no_error(notebook):
    """No cell ended in an exception."""
    return [
        f"code cell {number}: {output.ename}: {output.evalue}"
        for number, cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error"
    ]


def no_stderr(notebook):
    """No cell wrote a warning."""
    return [
        f"code cell {number} wrote to stderr: {output.text.strip()[:100]}"
        for number, cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


def executed_in_order(notebook):
    """Every code cell was executed, from the first to the last."""
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    wanted = list(range(1, len(counts) + 1))
    return [] if counts == wanted else [f"execution counts {counts}, not 1..{len(wanted)}"]


def no_leftovers(notebook):
    """No parameters were injected, and no trace of papermill stays."""
    found = ["papermill metadata of the notebook"] * ("papermill" in notebook.metadata)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            found.append(f"cell {cell.id}: injected parameters")
        found += [
            f"cell {cell.id}: {key} metadata"
            for key in ("papermill", "execution")
            if key in cell.metadata
        ]
    return found


def unique_ids(notebook):
    """Every cell has an id of its own."""
    ids = [cell.get("id", "") for cell in notebook.cells]
    found = [f"cell id {name!r} occurs twice" for name in sorted(set(ids)) if ids.count(name) > 1]
    return found + ["a cell has no id"] * ("" in ids)


# ------------------------------------------------------------------- figures


def figures_described(notebook):
    """Every picture has a caption that says something, a name to refer to and an alt text."""
    found = []
    for number, cell in code_cells(notebook):
        if not any(is_image(output) for output in cell.outputs):
            continue
        settings = cell.metadata.get("mystnb", {})
        figure, image = settings.get("figure", {}), settings.get("image", {})
        caption, alt = str(figure.get("caption", "")), str(image.get("alt", ""))
        if len(caption.strip()) < SHORTEST_CAPTION:
            found.append(f"code cell {number}: caption missing or too short: {caption!r}")
        if len(alt.strip()) < SHORTEST_ALT:
            found.append(f"code cell {number}: alt text missing or too short: {alt!r}")
        if caption.strip() and caption.strip() == alt.strip():
            found.append(f"code cell {number}: the alt text repeats the caption")
        if not re.fullmatch(r"fig-[a-z0-9-]+", str(figure.get("name", ""))):
            found.append(f"code cell {number}: figure name {figure.get('name')!r} is not fig-...")
    return found


def only_pictures_unchecked(notebook):
    """The tag that switches nbval's comparison off stands on pictures, and on nothing else."""
    found = []
    for number, cell in code_cells(notebook):
        tagged = FIGURE_TAG in cell.metadata.get("tags", [])
        pictures = [is_image(output) for output in cell.outputs]
        if tagged and not all(pictures):
            found.append(f"code cell {number}: {FIGURE_TAG} hides an output that is no picture")
        if any(pictures) and not tagged:
            found.append(f"code cell {number}: a picture without the tag {FIGURE_TAG}")
        other = {"nbval-skip", "nbval-raises-exception", "nbval-ignore-output"} - {FIGURE_TAG}
        found += [
            f"code cell {number}: tag {tag}" for tag in other & set(cell.metadata.get("tags", []))
        ]
        comments = re.findall(r"^#\s*(NBVAL_\w+|PYTEST_VALIDATE_\w+)", cell.source, re.MULTILINE)
        found += [f"code cell {number}: comment {name} switches nbval off" for name in comments]
    return found


def outputs_shown(notebook):
    """Every output has a form the book can show (or is a glued value or a verdict's JSON)."""
    found = []
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            glued = any(kind.startswith(GLUE) for kind in kinds)
            strange = {k for k in kinds - SHOWN - STORED if not k.startswith(GLUE)}
            if strange:
                found.append(f"code cell {number}: output of kind {', '.join(sorted(strange))}")
            if kinds and not kinds & SHOWN and not glued:
                found.append(f"code cell {number}: an output the book cannot show")
    return found


# ---------------------------------------------------------------------- code

MOST_DEFINITION_LINES = 8
MOST_CODE_LINES = 2500
MOST_HIDDEN = 1 / 3
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def definitions(notebook):
    """Functions and classes that a notebook defines, methods and inner ones among them."""
    tree = ast.parse(python_source(notebook))
    return [node for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]


def no_long_definition(notebook):
    """What is longer than a few lines is a module's, where it is typed and tested."""
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in definitions(notebook)}
    return [
        f"{name} has {length} lines, allowed are {MOST_DEFINITION_LINES}: move it to kvbook"
        for name, length in lengths.items()
        if length > MOST_DEFINITION_LINES
    ]


def code_shown(notebook):
    """Most of the code is there to be read."""
    cells = [cell for _, cell in code_cells(notebook)]
    tags = [cell.metadata.get("tags", []) for cell in cells]
    hidden = sum(any(tag.startswith(("hide-", "remove-")) for tag in found) for found in tags)
    if hidden <= MOST_HIDDEN * len(cells):
        return []
    return [f"{hidden} of {len(cells)} code cells are hidden, allowed is a third"]


def defined_once(notebooks):
    """No function or class is defined in two notebooks, given by name."""
    places = {}
    for name, notebook in notebooks.items():
        for defined in dict.fromkeys(node.name for node in definitions(notebook)):
            if not re.fullmatch(r"__\w+__|_repr_\w+_", defined):
                places.setdefault(defined, []).append(name)
    return [
        f"{defined} is defined in {', '.join(found)}: move it to kvbook"
        for defined, found in places.items()
        if len(found) > 1
    ]


def little_code(notebooks):
    """All notebooks together hold little code; what they call lies in modules."""
    cells = [cell for notebook in notebooks.values() for _, cell in code_cells(notebook)]
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    if len(lines) <= MOST_CODE_LINES:
        return []
    return [f"the notebooks hold {len(lines)} lines of code, allowed are {MOST_CODE_LINES}"]


# --------------------------------------------------------------------- texts

ABSOLUTE = re.compile(
    r"(?<![\w.:/~-])/(?:home|root|Users|tmp|var|opt|usr|mnt|srv|private|work|workspace)/[\w.-]+"
    r"|\b[A-Z]:\\\w+"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def texts(notebook):
    """(place, text) of all sources and textual outputs."""
    for number, cell in enumerate(notebook.cells, start=1):
        yield f"cell {number}", cell.source
        for output in cell.get("outputs", []):
            yield f"output of cell {number}", output.get("text", "")
            for kind, data in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    yield f"output of cell {number}", data if isinstance(data, str) else repr(data)


def no_local_paths(notebook):
    """Nothing names a place on the machine where the chapter was executed."""
    return [
        f"{place}: {match.group()}"
        for place, text in texts(notebook)
        for pattern in (ABSOLUTE, ADDRESS)
        for match in pattern.finditer(text)
    ]


def small_enough(notebook):
    """The stored notebook stays small enough to be fetched and previewed."""
    import nbformat

    size = len(nbformat.writes(notebook).encode())
    return [] if size <= LARGEST_BYTES else [f"{size} bytes, more than {LARGEST_BYTES}"]


def claims_known(notebook, known):
    """Every claim (C..) and result (T..) that the text names is in the ledger's list.

    Parameters
    ----------
    notebook : NotebookNode
    known : collection of str
        Ids such as "C01" and "T03".
    """
    return [
        f"markdown cell {number} names {name}, which is not in the ledger"
        for number, source in markdown_cells(notebook)
        for name in sorted(set(re.findall(r"(?<![\w-])[CT]\d\d\b", source)) - set(known))
    ]


# ------------------------------------------------------------- typed results

ALLOWED_CLASSES = {"paper-states", "prediction"}
TYPED = re.compile(r"<!--\s*typed:\s*(\S.*?)-->", re.DOTALL)
FENCE = re.compile(r"^\s*(?P<marks>`{3,}|~{3,}|:{3,})\s*(?P<rest>.*)$")
LITERAL = {"code", "code-block", "code-cell", "math", "bibliography", "mermaid", "literalinclude"}
# A number with decimals or an exponent, or a percentage.
NUMBER = re.compile(
    r"(?<![\w.,/-])[-+−]?(?P<digits>\d+\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\d+(?:\.\d+)?(?=\s?%))"
)
# Levels that are a convention, not a result.
LEVELS = {"5", "50", "90", "95", "99", "99.9", "100"}
# "Section 3.2", "Python 3.11 or 3.12", "CC BY 4.0", "version 1.2", "arXiv:2605.08114" are names.
NAMED = re.compile(
    r"(?:Sections?|Lemmas?|Theorems?|Tables?|Figures?|Figs?\.|Eqs?\.|Equations?|Algorithms?"
    r"|Appendix|Python|[Vv]ersions?|CC\s*BY|Attribution|Apache|MIT|arXiv:?)\s*\(?v?\d+\.\d+(?:\.\d+)*\)?"
    r"(?:(?:,|,? or|,? and| to)\s+\d+\.\d+(?!\d*\s?%))*"
)


@dataclass
class Piece:
    """A stretch of prose and the classes of the directives around it."""

    text: str
    classes: frozenset


def pieces(markdown):
    """Cut markdown into pieces of prose, leaving out whatever is literal.

    Fenced code and mathematics are dropped; what stands inside a directive, such as an
    admonition, is prose that carries the directive's classes.
    """
    stack, lines, found = [], [], []

    def flush():
        if lines:
            classes = frozenset().union(*(entry["classes"] for entry in stack))
            found.append(Piece("\n".join(lines), classes))
            lines.clear()

    for line in markdown.split("\n"):
        top = stack[-1] if stack else None
        match = FENCE.match(line)
        if top and match and not match["rest"] and closes(match["marks"], top["marks"]):
            flush()
            stack.pop()
        elif top and top["literal"]:
            continue
        elif match and opens(match):
            flush()
            stack.append(opened(match))
        elif top and (option := re.match(r"\s*:class:\s*(.*)", line)):
            top["classes"] |= set(option.group(1).split())
        else:
            lines.append(line)
    flush()
    return found


def closes(marks, opening):
    """Whether a bare fence ends the one that opened."""
    return marks[0] == opening[0] and len(marks) >= len(opening)


def opens(match):
    """Whether a line begins a fenced block."""
    return match["marks"][0] != ":" or match["rest"].startswith("{")


def opened(match):
    """The fenced block a line begins; without a directive's name it is code."""
    name = re.match(r"\{([\w:-]+)\}", match["rest"])
    literal = name is None or name.group(1) in LITERAL
    return {"marks": match["marks"], "literal": literal, "classes": set()}


def prose(text):
    """Text without mathematics, code, roles, links' targets, comments and named numbers."""
    # What stands between glue comments was written by the build.
    text = re.sub(r"<!-- glue: .*?<!-- /glue -->", " ", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(
        r"(?:\{[\w:-]+\})?(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)", " ", text, flags=re.S
    )
    text = without_math(text)
    text = re.sub(r"\]\([^)\s]*(?:\s+\"[^\"]*\")?\)", "]", text)
    text = re.sub(r"<?https?://[^\s>)]+>?", " ", text)
    text = re.sub(r"<[^<>]+>", " ", text)
    return NAMED.sub(" ", text)


def without_math(text):
    """Text without what MathJax sets."""
    text = re.sub(r"\$\$.*?\$\$(?:\s*\([\w:-]+\))?", " ", text, flags=re.DOTALL)
    text = re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", " ", text, flags=re.DOTALL)
    return re.sub(r"(?<![\\$])\$(?!\s)[^$]*?(?<![\s\\])\$(?!\d)", " ", text, flags=re.DOTALL)


def typed_numbers(markdown):
    """Numbers of a piece of markdown that look like typed results.

    Allowed are numbers in mathematics and code, the conventional levels (95%), whatever stands
    in an admonition of class `paper-states` or `prediction`, and a whole text that says what
    its typed numbers are: ``<!-- typed: published constants, TurboQuant -->``.
    """
    if TYPED.search(markdown):
        return []
    found = []
    for piece in pieces(markdown):
        if piece.classes & ALLOWED_CLASSES:
            continue
        text = prose(piece.text)
        for match in NUMBER.finditer(text):
            percent = text[match.end() :].lstrip(" ").startswith("%")
            if not (percent and match["digits"] in LEVELS):
                found.append(match["digits"])
    return found


def no_typed_result(notebook):
    """Measured numbers in the prose come out of a cell, through glue."""
    return [
        f"markdown cell {number}: typed number {digits}"
        for number, source in markdown_cells(notebook)
        for digits in typed_numbers(source)
    ]


def glued_numbers(notebook):
    """Name to value of the numbers a notebook glues."""
    values = {}
    for _, cell in code_cells(notebook):
        for output in cell.outputs:
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = output.get("data", {}).get(GLUE + "text/plain")
            if name is None or text is None:
                continue
            try:
                values[name] = float(text.strip("'\""))
            except ValueError:
                continue
    return values


def same_number(digits, value):
    """Whether a typed number is a value rounded to the digits that were typed."""
    mantissa, _, exponent = digits.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    step = 10.0 ** (int(exponent or 0) - decimals)
    return abs(abs(value) - float(digits)) <= 0.5000001 * step


def significant(digits):
    """Number of significant digits typed."""
    mantissa = digits.lower().partition("e")[0]
    return len(mantissa.replace(".", "").lstrip("0"))


def no_typed_twin(notebook):
    """No number, in a formula either, repeats a glued value of the same chapter.

    Where the paper is quoted or a prediction made, the same digits may stand; numbers of fewer
    than three significant digits meet by chance and are left alone.
    """
    values = glued_numbers(notebook)
    found = []
    for number, source in markdown_cells(notebook):
        if TYPED.search(source):
            continue
        for piece in pieces(source):
            if piece.classes & ALLOWED_CLASSES:
                continue
            text = re.sub(
                r"\{[\w:-]+\}`[^`]*`|<!--.*?-->|https?://\S+", " ", piece.text, flags=re.S
            )
            for match in re.finditer(r"(?<![\w.])\d+\.\d+(?:[eE][-+]?\d+)?(?![\w.]*\.\d)", text):
                digits = match.group()
                twins = [
                    n
                    for n, v in values.items()
                    if significant(digits) >= 3 and same_number(digits, v)
                ]
                if twins:
                    found.append(f"markdown cell {number}: {digits} is typed; glue {twins[0]}")
    return found


GUARDS = [
    no_error,
    no_stderr,
    executed_in_order,
    no_leftovers,
    unique_ids,
    figures_described,
    only_pictures_unchecked,
    outputs_shown,
    no_local_paths,
    no_long_definition,
    code_shown,
    small_enough,
    no_typed_result,
    no_typed_twin,
]
GUARDS_OF_ALL = [defined_once, little_code]
