"""Chapter 8: values and the attention output, and whether an unbiased bit pays there (T15).

``theory`` derives the errors that tokens share, ``sharing`` measures them. ``heads`` measures
captured heads, ``foretold`` says what should come out. ``verdict`` states the predictions and
judges them. ``splitting`` is about bits for K and V, ``context`` about context length.

A *way* to store values is a name with a function that makes the quantizer of a budget. Errors of
values are in units of their mean square norm, errors of an output in units of its energy |T|^2.
"""

from __future__ import annotations

from kvbook.experiments.ch08.context import (
    ContextErrors,
    context_length_law,
    measure_by_position,
    measure_context_length,
    spread_of_heads,
)
from kvbook.experiments.ch08.foretold import (
    gram_calibration,
    head_numbers,
    over_foretold,
    passes_threshold,
    predict_heads,
    shared_error_laws,
    sketch_counts,
)
from kvbook.experiments.ch08.heads import (
    HeadErrors,
    HeadFacts,
    WorstCentred,
    describe_heads,
    exact_rows,
    head_facts,
    head_total,
    measure_heads,
    output_energy,
    own_range_over_lloyd_max,
    worst_centred,
)
from kvbook.experiments.ch08.sharing import (
    Cell,
    UnequalWeights,
    in_one_channel,
    measure_mean_in_one_channel,
    measure_output_curves,
    measure_shared_errors,
    measure_unequal_weights,
    measured_threshold,
    single_and_shared,
    threshold_grid,
)
from kvbook.experiments.ch08.splitting import (
    SplitErrors,
    all_heads,
    change_with_longer_values,
    key_error_summands,
    key_over_value_norm,
    measure_split,
    measure_split_on_heads,
    split_errors,
    split_numbers,
)
from kvbook.experiments.ch08.storing import DIM, FloatArray, Vectors, Way, common_mean, stored
from kvbook.experiments.ch08.theory import (
    Errors,
    errors_law,
    flat_mean_law,
    least_error_sketch_law,
    shrinkage_share,
    threshold_law,
)
from kvbook.experiments.ch08.verdict import (
    MANY,
    TOLERANCE,
    judge_t15,
    predict_t15,
    ratio_of_means,
    unequal_weights_law,
)

__all__ = [
    "DIM",
    "MANY",
    "TOLERANCE",
    "Cell",
    "ContextErrors",
    "Errors",
    "FloatArray",
    "HeadErrors",
    "HeadFacts",
    "SplitErrors",
    "UnequalWeights",
    "Vectors",
    "Way",
    "WorstCentred",
    "all_heads",
    "change_with_longer_values",
    "common_mean",
    "context_length_law",
    "describe_heads",
    "errors_law",
    "exact_rows",
    "flat_mean_law",
    "gram_calibration",
    "head_facts",
    "head_numbers",
    "head_total",
    "in_one_channel",
    "judge_t15",
    "key_error_summands",
    "key_over_value_norm",
    "least_error_sketch_law",
    "measure_by_position",
    "measure_context_length",
    "measure_heads",
    "measure_mean_in_one_channel",
    "measure_output_curves",
    "measure_shared_errors",
    "measure_split",
    "measure_split_on_heads",
    "measure_unequal_weights",
    "measured_threshold",
    "output_energy",
    "over_foretold",
    "own_range_over_lloyd_max",
    "passes_threshold",
    "predict_heads",
    "predict_t15",
    "ratio_of_means",
    "shared_error_laws",
    "shrinkage_share",
    "single_and_shared",
    "sketch_counts",
    "split_errors",
    "split_numbers",
    "spread_of_heads",
    "stored",
    "threshold_grid",
    "threshold_law",
    "unequal_weights_law",
    "worst_centred",
]
