"""What is claimed and by whom, one row each: the paper's claims C.. and the book's results T..

Rows say what is claimed and what the book expects; verdicts are not here but in the executed
notebooks. Paper: P. D'Alberto, arXiv:2605.08114 (2026).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its reviewer's question, or a result that the book derives.

    Attributes
    ----------
    id : str
        "C01".. or "T01"..
    chapter : str
        The chapter that tests it.
    statement, place, published : str
        What is claimed, where in the paper, with which published numbers (empty if none).
    expectation : str
        What this book predicts, stated before any measurement.
    """

    id: str
    chapter: str
    statement: str
    place: str
    published: str
    expectation: str

    @property
    def of_paper(self) -> bool:
        """Whether others state it: the paper or its reviewer, not the book."""
        return self.id.startswith("C")

    @property
    def kind(self) -> str:
        """ "paper", "review" (what the paper's reviewer asks) or "result"."""
        if not self.of_paper:
            return "result"
        return "review" if self.place == "review" else "paper"


_PAPER = [
    Claim(
        "C01",
        "2",
        "After the rotation, coordinates of a normalised vector follow Beta((d-1)/2, (d-1)/2), for "
        "gaussian, heavy tail and low rank at d = 2, 8, 128, 1024.",
        "figs 1, 2, 4, 7 (top)",
        "",
        "True of a Haar rotation on average; one Hadamard round fails under heavy tails.",
    ),
    Claim(
        "C02",
        "2",
        "At d=8 a rank-1 input deviates from the Beta histogram; at d=128 and 1024 the histogram "
        "hides the low-rank structure completely.",
        "figs 2, 4, 7",
        "",
        "The histogram of one rotation deviates at d=8; the deviation shrinks with d.",
    ),
    Claim(
        "C03",
        "11",
        "At equal budget, 4-bit MSE has lower KL than 3-bit MSE + 1-bit QJL for gaussian, heavy "
        "tail and low rank at d=2, 8, 128.",
        "figs 1, 2, 4 (boxplots)",
        "",
        "True for d >= 4; at d=2 the residual norm is a free number and may reverse it.",
    ),
    Claim(
        "C04",
        "11",
        "At d=1024 low rank has a catastrophically large KL, one to two orders of magnitude above "
        "heavy tail; heavy tail is the only case where MSE+QJL ... (the caption is cut off here).",
        "fig 7",
        "KL of 10^0 to 10^1",
        "A matter of logit scale, not of rank.",
    ),
    Claim(
        "C05",
        "4",
        "QJL on K inflates the inner-product variance by pi/2.",
        "abstract",
        "pi/2",
        "Exact against unquantised JL at rho = 0, and for the residual only.",
    ),
    Claim(
        "C06",
        "4",
        "Equal-budget results are consistent with a 2 pi variance penalty of QJL.",
        "fig 4 caption",
        "2 pi",
        "2 pi is the high-rate limit for Gaussian S; 2 pi - 4 for orthogonal S.",
    ),
    Claim(
        "C07",
        "5",
        "Softmax amplifies the variance non-linearly (Jensen); under a sufficient condition "
        "superlinearly.",
        "abstract",
        "",
        "Superlinear to leading order iff 4 S3 > S2 + 3 S2^2.",
    ),
    Claim(
        "C08",
        "11",
        "At n=4 KQV wins on every measure, for all distributions and ranks, with 2.25 times lower "
        "KL than QKQV.",
        "abstract",
        "KL ratio 2.25; Mann-Whitney r = -0.983, p < 1e-23",
        "The ratio fits an orthogonal sketch (2.08), not a Gaussian one (5.70).",
    ),
    Claim(
        "C09",
        "7",
        "QKQV has higher KL than KQV at every budget and distribution.",
        "abstract",
        "",
        "True but for spikes under one Hadamard round, saturated attention and n=1.",
    ),
    Claim(
        "C10",
        "6",
        "QKQV has the better geometric K reconstruction at n in {2,3,5}, KQV at n in {4,6}.",
        "abstract",
        "crossover {2,3,5} against {4,6}",
        "No crossover with converged codebooks for d >= 4.",
    ),
    Claim(
        "C11",
        "6",
        "At n in {2,3,5} QKQV wins geometrically because the sufficient condition does not bind; "
        "at n=4 it does.",
        "abstract",
        "",
        "Cannot be tested without the condition itself; ours does not tell budgets apart.",
    ),
    Claim(
        "C12",
        "5",
        "KL(p_ref || p_quant) depends on K only, by construction, and bridges K direction error to "
        "routing corruption and output collapse.",
        "abstract",
        "",
        "The first part holds by construction.",
    ),
    Claim(
        "C13",
        "11",
        "Jensen bridge, n=4, Student-t nu=3: three separated clouds in (K direction error, KL), KV "
        "far right; down the chain (KL to routing, KL to output) they collapse on one curve.",
        "fig 3",
        "KV KL up to 4 nats",
        "One curve from KL to routing and from KL to output; in K direction error KV lies apart.",
    ),
    Claim(
        "C14",
        "11",
        "KQV against KV in the 6-D error space at rank 32: KQV wins at n=2, 3, 5, neutral at 4, "
        "KV wins at 6.",
        "fig 5",
        "Mann-Whitney r = +1.000, +0.700, +0.145, +0.958, -0.923 for n = 2..6",
        "Depends on the reading of the 6-D error; to be searched and reported whole.",
    ),
    Claim(
        "C15",
        "11",
        "Student-t nu=1.05: KQV's K direction error remains stable as the budget grows from n=2 to "
        "4, far below KV's, which retreats.",
        "fig 6",
        "KQV 0.027; KV 0.645 at n=2, 0.202 at n=4; r = +1.000, energy distance 1.004",
        "angle/pi under WHT gives 0.027 to 0.029.",
    ),
    Claim(
        "C16",
        "11",
        "Both V caches move toward the Lloyd-Max line in the Shannon-phi plane as the budget "
        "grows.",
        "fig 6",
        "",
        "True of rotated values.",
    ),
    Claim(
        "C17",
        "11",
        "TurboQuant (WHT) has no failure mode under fat tails.",
        "fig 6",
        "",
        "One Hadamard round fails on spikes: its error is not monotone in n.",
    ),
    Claim(
        "C18",
        "11",
        "The best scheme by regime and budget is as table 4 lists it.",
        "appendix A",
        "",
        "WHT without QJL, or with an unbiased scale, in nearly every cell.",
    ),
    Claim(
        "C19",
        "1",
        "The untested premise: the Beta law describes real keys and values; KQV beats QKQV in KL "
        "at n=4 on a real model.",
        "review",
        "",
        "The law fails per rotation, the distortion hardly notices, and KQV wins.",
    ),
]

_RESULTS = [
    Claim(
        "T01",
        "2",
        "Coordinate law of the sphere: density, variance 1/d, kurtosis 3d/(d+2).",
        "",
        "",
        "Closed form; Haar-rotated vectors follow it.",
    ),
    Claim(
        "T02",
        "2",
        "A randomised Walsh-Hadamard transform is not a Haar rotation: spikes stay at +-1/sqrt(d).",
        "",
        "",
        "One round fails per vector under tails near nu = 1; further rounds repair it.",
    ),
    Claim(
        "T03",
        "3",
        "Lloyd-Max distortion D(n) of the exact law, its high-rate constant and Shannon's bound.",
        "",
        "TurboQuant quotes 0.36, 0.117, 0.03, 0.009",
        "D(1..6) = 0.36089, 0.11600, 0.03397, 0.00931, 0.00245, 0.00063 at d=128.",
    ),
    Claim(
        "T04",
        "3",
        "Reconstruction shrinks by 1 - D, cos^2 = 1 - D; the unbiased scale gives D/(1 - D).",
        "",
        "",
        "Within Monte Carlo error on isotropic vectors.",
    ),
    Claim(
        "T05",
        "4",
        "Gaussian sign sketch: unbiased, variance (pi/2 - rho^2)/m; unquantised (1 + rho^2)/m.",
        "",
        "",
        "Ratio pi/2 at rho = 0, below one past |rho| of about 0.534.",
    ),
    Claim(
        "T06",
        "4",
        "Reconstruction error of the Gaussian sketch with m = d: pi/2 - 1/d.",
        "",
        "",
        "Within Monte Carlo error.",
    ),
    Claim(
        "T07",
        "4",
        "Orthogonal sketch: error tends to pi/2 - 1, with MMSE scale to 1 - 2/pi; the scale must "
        "fit S.",
        "",
        "",
        "Within Monte Carlo error; a mismatched scale is 11 times too small at d=128.",
    ),
    Claim(
        "T08",
        "4",
        "Equal-budget penalty c D(n-1)/D(n): towards 2 pi, 2 pi - 4 and 4 - 8/pi.",
        "",
        "",
        "Gaussian 4.86 .. 6.06 and orthogonal 1.78 .. 2.21 for n = 2..6 at d=128.",
    ),
    Claim(
        "T09",
        "6",
        "No geometric crossover with optimal codebooks for d >= 4.",
        "",
        "",
        "d=2 and d=3 are the exceptions.",
    ),
    Claim(
        "T10",
        "6",
        "A codebook with dead levels, a fixed point of its iteration, can produce the published "
        "crossover; missing iterations alone do not.",
        "",
        "",
        "{2,3,5} against {4,6} occurs among the settings searched.",
    ),
    Claim(
        "T11",
        "5",
        "Small logit noise: E KL = sigma^2/2 (1 - S2), with sigma^2 = c D.",
        "",
        "",
        "Within Monte Carlo error for small noise.",
    ),
    Claim(
        "T12",
        "5",
        "Next order sigma^4 (S3 - S2/4 - 3/4 S2^2): superlinear iff 4 S3 > S2 + 3 S2^2.",
        "",
        "",
        "Classifies attention rows against Monte Carlo.",
    ),
    Claim(
        "T13",
        "5",
        "Peaked attention amplifies exponentially while eps exp(sigma^2) is small; diffuse "
        "attention freezes.",
        "",
        "",
        "E KL <= min(sigma^2/2, log(1 + eps (exp(sigma^2) - 1))).",
    ),
    Claim(
        "T14",
        "5",
        "An error common to all keys cancels; shrinkage acts as a temperature 1 - D.",
        "",
        "",
        "Cancellation exact.",
    ),
    Claim(
        "T15",
        "8",
        "QJL on V pays only with a common component in V and N_eff past a threshold.",
        "",
        "",
        "Threshold near 8 at n=2 and near 100 at n=4 for a unit-variance mean, d=128.",
    ),
    Claim(
        "T16",
        "7",
        "A key quantizer that rotates and gives every bit to the codebook has the lowest KL, or is "
        "within 5% of it, in nearly every regime and budget; what rotation, sketch and scale "
        "change follows from D and radial gain.",
        "",
        "",
        "Rotation with unbiased scale and no QJL on K wins.",
    ),
    Claim(
        "T17",
        "A2",
        "Rank-biserial r, energy distance and permutation p-values keep their size under the null.",
        "",
        "",
        "Rejection at 0.05 stays at 0.05, ties included.",
    ),
    Claim(
        "T18",
        "1",
        "KL in the form log1p(sum p (expm1(eta) - eta)) stays accurate where log-softmax fails.",
        "",
        "",
        "Relative error below 1e-4 at KL of 1e-8; float32 log-softmax meaningless below 1e-6.",
    ),
    Claim(
        "T19",
        "9",
        "With the mean of a finished window, the book's scheme C-EDEN has lower KL and output "
        "error than KV, KQV and QKQV at n=2, 3, 4 on the captured heads; by how much follows from "
        "D and radial gain.",
        "",
        "",
        "KL gain over KQV of 0.90, 1.00, 1.04 on isotropic keys, d=128; about 1.5 on real heads.",
    ),
]

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in _PAPER + _RESULTS}
