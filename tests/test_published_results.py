"""Which published number a record may stand beside: by how it was measured alone."""

import dataclasses

import pytest

from common import ROOT
from StackGAN_v2.evaluation.published_results import RESULTS, SETS, Setting, comparable_with, markdown_table

BIRDS = Setting(
    incomparable="", real_images=2933, classes=50, generated=29330, size=256, generated_size=256, crop="box"
)


def test_the_papers_protocol_on_birds():
    text, published = comparable_with("fid", BIRDS)
    assert published[1] == {"method": "Li et al. 2020", "value": "18.37"} and len(published) == 4
    assert text.startswith("FID on CUB-200-2011: StackGAN-v2 18.94, Li et al. 2020 18.37, S2IGAN 14.50")
    assert "cut as 'box'" in text and "gaps under about 5 may be protocol" in text


def test_flowers_are_known_by_their_counts():
    flowers = dataclasses.replace(BIRDS, real_images=1155, classes=20, generated=11550, crop="centre")
    assert comparable_with("fid", flowers)[1] == [{"method": "Li et al. 2020", "value": "54.76 (unverified)"}]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"incomparable": "through a stub"}, "through a stub"),
        ({"real_images": 300}, "no published test split has 300 images of 50 classes"),
        ({"classes": 0}, "no published test split has 2933 images of 0 classes"),
        ({"size": 64}, "generated at 256 and compared at 64"),
        ({"generated_size": 64}, "generated at 64 and compared at 256"),
        ({"generated": 29329}, "one image for each of the 29330 test sentences, here are 29329"),
    ],
)
def test_anything_else_compares_with_nothing(change, reason):
    text, published = comparable_with("fid", dataclasses.replace(BIRDS, **change))
    assert text.startswith("none: ") and reason in text and published == []


def test_inception_scores_need_a_classifier_of_the_test_classes():
    assert comparable_with("is", BIRDS) == (
        "none: published scores go through an Inception fine-tuned on the set (--is_weights), this one knows ImageNet",
        [],
    )
    assert "this one has 150" in comparable_with("is", dataclasses.replace(BIRDS, classifier_classes=150))[0]
    text, published = comparable_with(
        "is", dataclasses.replace(BIRDS, classifier_classes=50, incomparable="another network")
    )
    assert published[1]["value"] == "4.09 ± 0.04" and "the scales differ" in text


@pytest.mark.parametrize("kind", ["kid", "precision", "recall", "class", "attribute"])
def test_what_no_paper_reports(kind):
    assert comparable_with(kind, BIRDS) == ("none: no paper of this field reports it", [])


def test_retrieval_names_what_is_otherwise():
    text, published = comparable_with("retrieval", dataclasses.replace(BIRDS, incomparable="through lite0"))
    assert published == [] and text.startswith("none: through lite0; S2IGAN")


def test_every_set_is_another_one():
    assert len({(one.images, one.classes) for one in SETS}) == len(SETS)


def test_recall_without_classes_compares_with_flickr8k():
    flickr = dataclasses.replace(BIRDS, real_images=1000, classes=0, generated=5000, crop="whole")
    text, published = comparable_with("r50", flickr)
    assert text.startswith("R@50 on Flickr8k: StackGAN-v2 16.4") and published[2]["value"] == "34.95"
    assert comparable_with("is", dataclasses.replace(flickr, classifier_classes=0))[1] == []
    assert comparable_with("s2igan", BIRDS)[0].startswith("none: S2IGAN asks with a list")


def test_the_table_for_documents_holds_every_result():
    table = markdown_table()
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1
    for result in RESULTS:
        assert any(result.method in row and result.value in row for row in rows), result
    assert (
        "| Places-subset |" in table and "| CUB-200-2011 | speech | Li et al. 2020 | 18.37 | 4.09 ± 0.04 | – |" in table
    )


def test_the_documents_hold_the_table():
    assert markdown_table() in (ROOT / "docs/evaluation.md").read_text()
