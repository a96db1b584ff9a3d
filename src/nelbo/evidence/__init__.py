"""What the bound is good for: ranking and classifying images, comparing models."""

from nelbo.evidence.classification import Classification, Classifier, classify
from nelbo.evidence.comparison import Comparison, compare
from nelbo.evidence.ranking import excess_bits, rank, write_ranking

__all__ = [
    "Classification",
    "Classifier",
    "Comparison",
    "classify",
    "compare",
    "excess_bits",
    "rank",
    "write_ranking",
]
