"""Operations of a training, counted: what an image costs does not depend on the batch, and hours follow by arithmetic."""

import pytest

from benchmarks import operations
from common import ROOT

TINY = ["TREE.BASE_SIZE=16", "TREE.BRANCH_NUM=1", "GAN.GF_DIM=4", "GAN.DF_DIM=4"]
CFG = ROOT / "StackGAN_v2/cfg/birds_3stages.yml"


def test_hours_by_hand():
    lines = operations.table([operations.Count("toy", 64, 1000, 10, 3.6e12)], tflops=10)
    assert lines[2] == "| toy | 64 | 1,000 × 10 | 3600.0 | 0.036 | 1 |"


def test_a_wider_generator_does_more_and_the_batch_counts_once():
    one = operations.count(CFG, 100, TINY, width=8)
    other = operations.count(CFG, 100, [*TINY, "GAN.GF_DIM=8", "TRAIN.BATCH_SIZE=12"], width=8)
    assert (one.size, one.iterations, one.batch, other.batch) == (16, 2500, 24, 12)
    assert one.per_image < other.per_image and one.total == one.per_image * 24 * 2500


def test_penalties_count_by_how_often_they_come():
    often, seldom, never = (
        operations.count(CFG, 100, [*TINY, "TRAIN.WRONG=speech", *more], width=8).per_image
        for more in (
            ["TRAIN.COEFF.MA_PENALTY=2", "TRAIN.MA_PENALTY_EVERY=1"],
            ["TRAIN.COEFF.MA_PENALTY=2", "TRAIN.MA_PENALTY_EVERY=4"],
            [],
        )
    )
    assert seldom - never == pytest.approx((often - never) / 4, rel=1e-6)


def test_a_generator_without_discriminators_is_counted():
    cfg = ROOT / "StackGAN_v2/cfg/toybirds_exemplar.yml"
    found, wider = (operations.count(cfg, 100, [f"EXEMPLAR.WIDTH={width}"], width=8) for width in (4, 8))
    assert (found.size, found.batch) == (64, 16) and 0 < found.per_image < wider.per_image
