"""Chapter 1: what a cache weighs, a first look at captured heads, how exact a KL is.

``storage`` counts the bytes of a cache, ``reports`` asks what a published comparison can show,
``heads`` compares arms on one attention row and on every captured head, ``accuracy`` holds ways to
compute a KL against arithmetic with 50 digits (T18).
"""

from kvbook.experiments.ch01.accuracy import (
    COMMON_ERRORS,
    KL_METHODS,
    TARGETS,
    KLAccuracy,
    KLMethod,
    decimal_kl,
    decimal_log_row,
    judge_t18,
    log_softmax_kl,
    measure_t18,
    noisy_keys,
    pairwise_sum,
    predict_t18,
    relative_errors,
    share_negative,
    shifted_kl,
    unshifted_kl,
)
from kvbook.experiments.ch01.heads import (
    AttentionRow,
    FloatArray,
    HeadsKL,
    Ratio,
    is_random,
    measure_heads,
    measure_row,
    quoted_numbers,
    restored,
)
from kvbook.experiments.ch01.reports import checks_needed, fisher_power, fisher_pvalue
from kvbook.experiments.ch01.storage import (
    CacheShape,
    StoredVector,
    stages,
    stored_bits,
    stored_vector,
)

__all__ = [
    "COMMON_ERRORS",
    "KL_METHODS",
    "TARGETS",
    "AttentionRow",
    "CacheShape",
    "FloatArray",
    "HeadsKL",
    "KLAccuracy",
    "KLMethod",
    "Ratio",
    "StoredVector",
    "checks_needed",
    "decimal_kl",
    "decimal_log_row",
    "fisher_power",
    "fisher_pvalue",
    "is_random",
    "judge_t18",
    "log_softmax_kl",
    "measure_heads",
    "measure_row",
    "measure_t18",
    "noisy_keys",
    "pairwise_sum",
    "predict_t18",
    "quoted_numbers",
    "relative_errors",
    "restored",
    "share_negative",
    "shifted_kl",
    "stages",
    "stored_bits",
    "stored_vector",
    "unshifted_kl",
]
