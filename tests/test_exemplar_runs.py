"""Runs of the exemplar generator's training: resume, start from a file, samples from the file alone."""

import json

import pytest
import torch
from gan_set import assert_file_gives_its_samples, make_set
from test_gan_training import assert_equal_runs, run_main

from common import checkpoint, matching_network
from common.cli import UserError
from scripts.report import figures
from scripts.report import runs as runs_of_report
from StackGAN_v2.generators import load_generator
from StackGAN_v2.networks.exemplar import bank_of
from StackGAN_v2.training import setup
from StackGAN_v2.training.exemplar_step import begin, make_bank_filler

CFG = """
MODEL: exemplar
DATASET_NAME: tiny
TREE: {BRANCH_NUM: 1, BASE_SIZE: 32}
TRAIN:
  BATCH_SIZE: 4
  MAX_EPOCH: 50
  MAX_ITERATIONS: 8
  SNAPSHOT_INTERVAL: 3
  EMA_RAMP: 0.5
  GENERATOR_LR: 3e-3
  BETAS: [0.9, 0.99]
  CONDITION_INIT: True
  COEFF: {MATCHING: 0.1}
  MATCHER_STEPS: 2
GAN: {Z_DIM: 14}
EXEMPLAR:
  {REGIONS: 3, COLOURS: 7, WIDTH: 4, HIDDEN_DIM: 8, CONDITION_DIM: 6, MATCH_FROM: 0.2, MATCH_AGAINST: 5, WARM_UP: 2}
"""


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    """Matching networks of runs are trained and aligned quickly."""
    monkeypatch.setattr(matching_network, "ALIGNED_ON", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_set(tmp_path_factory.mktemp("exemplar"))
    (folder.parent / "tiny.yml").write_text(CFG)
    return folder


def test_only_a_new_run_begins_with_common_colours_and_directions(folder, tmp_path, monkeypatch):
    """Not one that goes on, nor one from a file, whose colours it keeps."""
    begun = []
    monkeypatch.setattr(setup, "begin", lambda *given: begun.append(given[3]) or begin(*given))
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1)
    assert len(begun) == 1 and begun[0] is not None
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 2)
    assert checkpoint.load(tmp_path / "run" / "Model" / "matcher.pth")["key"]["version"] == 3  # 1 was not aligned
    net_g = tmp_path / "run" / "Model" / "netG_2.pth"
    state = checkpoint.load(net_g)
    assert torch.equal(state["colours"], checkpoint.load(net_g.parent / "netG_1.pth")["colours"])
    assert state["colours"].std() > 0.05
    other = {**state, "colours": state["colours"] + 0.125}
    checkpoint.save(tmp_path / "other.pth", other)
    run_main(
        folder, "--output_dir", tmp_path / "next", "--max_steps", 1, "--set", f"TRAIN.NET_G={tmp_path / 'other.pth'}"
    )
    assert len(begun) == 1
    assert torch.equal(checkpoint.load(tmp_path / "next" / "Model" / "netG_1.pth")["colours"], state["colours"] + 0.125)


def test_a_run_in_parts_equals_one(folder, tmp_path, capsys):
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 5)
    for steps in (2, 4, 5):
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", steps)
    out = capsys.readouterr().out
    assert "going on from iteration 4 of" in out and "iteration 5 of 5   G " in out
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    ticks = [json.loads(line) for line in (tmp_path / "parts" / "stats.jsonl").read_text().splitlines()]
    logged = ticks[0].keys() | ticks[-1].keys()
    assert {"colour", "match", "G"} <= logged and not {"rec", "said", "KL", "D0"} & logged
    assert {path.name for path in (tmp_path / "parts" / "Image").iterdir()} == {
        f"32_{n:06d}.png" for n in (0, 2, 3, 4, 5)
    }
    charts = figures.generator_charts(runs_of_report.columns([tmp_path / "parts"])[0])
    assert [chart.title for chart in charts] == ["Generator, colours and matching", "Generator, all terms"]
    assert all(chart.svg for chart in charts)
    assert [line[0] for line in charts[0].legend] == ["colours", "matching"]
    with pytest.raises(UserError, match="made with model = exemplar, now it is affine"):
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", 6, "--set", "MODEL=affine")


def test_a_run_of_so_many_minutes(folder, tmp_path, capsys):
    minutes = ["--set", "TRAIN.MAX_ITERATIONS=0", "--max_minutes", 0.02]
    run_main(folder, "--output_dir", tmp_path / "run", *minutes)
    assert "ended by --max_minutes" in capsys.readouterr().out


def test_the_file_alone_says_how_to_sample(folder, tmp_path):
    """Widths, regions and the bank are read from it, whatever the cfg says; equal noise gives equal images."""
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 3)
    net_g = tmp_path / "run" / "Model" / "netG_3.pth"
    run_main(folder, "--set", "TRAIN.FLAG=False", "--set", "EXEMPLAR.REGIONS=8", "--eval_net_g", net_g, "--sheet", 2)
    generator = load_generator(net_g)
    assert generator.name == "exemplar" and generator.sizes == [32] and len(generator.bank_regions) == 7
    assert all(bank.any() for bank in bank_of(generator).values())
    assert_file_gives_its_samples(folder, net_g, generator)


def test_a_run_starts_from_a_file_with_another_bank(folder, tmp_path):
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1, "--set", "EXEMPLAR.BANK=3")
    net_g = tmp_path / "run" / "Model" / "netG_1.pth"
    run_main(folder, "--output_dir", tmp_path / "next", "--max_steps", 1, "--set", f"TRAIN.NET_G={net_g}")
    assert len(checkpoint.load(net_g)["bank_regions"]) == 3
    assert len(checkpoint.load(tmp_path / "next" / "Model" / "netG_1.pth")["bank_regions"]) == 7


def test_only_directions_of_the_matching_network_are_compared_with_what_it_sees(folder, tmp_path, monkeypatch):
    """Those of a file may be others, and so may those that are trained further."""
    fillers = []
    monkeypatch.setattr(
        setup, "make_bank_filler", lambda *given: fillers.append(make_bank_filler(*given)) or fillers[-1]
    )
    one_step = "--max_steps", 1, "--set"
    run_main(folder, "--output_dir", tmp_path / "run", *one_step, "TRAIN.VIS_COUNT=4")
    net_g = tmp_path / "run" / "Model" / "netG_1.pth"
    run_main(folder, "--output_dir", tmp_path / "file", *one_step, f"TRAIN.NET_G={net_g}")
    run_main(folder, "--output_dir", tmp_path / "trained", *one_step, "TRAIN.CONDITION_INIT=False")
    run_main(folder, "--output_dir", tmp_path / "unmatched", *one_step, "TRAIN.COEFF.MATCHING=0")
    assert [filler.matcher is not None for filler in fillers] == [True, False, False, False]
