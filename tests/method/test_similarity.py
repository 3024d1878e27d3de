from itertools import islice
from typing import get_args

import pytest
import torch
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from brainreg.errors import InputError
from brainreg.method import pairs as method_pairs
from brainreg.method import sampler as method_sampler
from brainreg.method.pairs import count_pairs, select_pairs
from brainreg.method.ranges import RANGES, RangeName
from brainreg.method.sampler import PairSampler
from brainreg.method.similarity import boosted_targets, pixel_similarity

CASES = Golden().cases
LISTED, DRAWN = "listed", "drawn"


def test_the_type_of_a_range_names_all_ranges():
    assert get_args(RangeName) == tuple(RANGES)


def smooth_images(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 1, 8, 8) uint8 whose similarities spread over most of [-1, 1]."""
    coarse = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear") * 255).to(torch.uint8)


@pytest.fixture(params=[LISTED, DRAWN])
def way(request, monkeypatch) -> str:
    """Both ways to draw pairs, of few images."""
    monkeypatch.setattr(method_sampler, "_CANDIDATES", 64)
    if request.param == DRAWN:
        monkeypatch.setattr(method_sampler, "_FEW", 0)
        monkeypatch.setattr(method_sampler, "_RARE", 0)
    return request.param


def test_pixel_similarity_equals_the_published(golden):
    torch.testing.assert_close(pixel_similarity(golden.images), golden["similarity"], rtol=1e-4, atol=1e-6)


def test_pixel_similarity_does_not_depend_on_the_unit_of_pixels(golden):
    in_unit_range = golden.images.float() / 255
    torch.testing.assert_close(pixel_similarity(in_unit_range), pixel_similarity(golden.images), rtol=0, atol=1e-6)


def test_rgb_is_averaged_to_one_channel_first(golden):
    rgb = golden.images[:30].reshape(10, 3, 32, 32)
    expected = pixel_similarity(rgb.double().mean(dim=1, keepdim=True))
    torch.testing.assert_close(pixel_similarity(rgb), expected, rtol=0, atol=1e-6)


def test_more_images_than_one_block_are_compared_like_few():
    images = torch.randint(0, 256, (1100, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images.double().flatten(1)
    pixels -= pixels.mean(dim=0)
    directions = pixels / pixels.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pixel_similarity(images).double(), directions @ directions.T, rtol=0, atol=1e-5)


def test_an_image_that_equals_the_mean_is_in_no_range():
    # The mean of the first two images is the third.
    images = torch.tensor([[0, 100, 40, 8], [200, 0, 40, 24], [100, 50, 40, 16]], dtype=torch.uint8).reshape(3, 1, 2, 2)
    similarity = pixel_similarity(images)
    assert similarity[2].isnan().all() and similarity[:, 2].isnan().all()
    assert not similarity[:2, :2].isnan().any()
    for reg_range in RANGES:
        pairs = select_pairs(similarity, reg_range, 0.999, 0.5 if reg_range == "double" else None)
        assert 2 not in pairs


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_ranges_and_targets_equal_the_published(golden, case):
    similarity = golden["similarity"]
    pairs = select_pairs(similarity, case["reg_range"], case["reg_thresh"], case["reg_thresh_2"])
    assert torch.equal(pairs, golden[f"pairs/{case['name']}"].long())
    targets = boosted_targets(similarity[pairs[:, 0], pairs[:, 1]], case["reg_thresh"])
    assert torch.equal(targets, golden[f"targets/{case['name']}"])


def test_the_golden_cases_cover_every_range():
    assert {case["reg_range"] for case in CASES} == set(RANGES)


def test_pairs_of_more_images_than_one_block_are_sorted_and_complete():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(1100, 1100, generator=generator)
    pairs = select_pairs(similarity, "high", 0.99)
    i, j = (similarity > 0.99).triu(diagonal=1).nonzero(as_tuple=True)
    assert torch.equal(pairs, torch.stack([i, j], dim=1))


def test_thresholds_are_strict():
    similarity = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert [len(select_pairs(similarity, name, 0.5)) for name in ("high", "low", "positive", "high_positive")] == [
        0
    ] * 4
    assert boosted_targets(torch.tensor([0.5, 0.51, -0.5, -0.51]), 0.5, value=0.7).tolist() == pytest.approx(
        [0, 0.7, 0, -0.7]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hgh", 0.5), "reg_range=hgh: no such range; did you mean high?"),
        (("double", 0.5), "reg_thresh_2 is missing"),
        (("double", 0.5, 0.5), "reg_thresh_2=0.5: must be below reg_thresh=0.5"),
        (("high", 0.5, 0.1), "reg_thresh_2=0.1: only the range double uses it"),
    ],
)
def test_wrong_ranges_are_named(arguments, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        select_pairs(torch.eye(3), *arguments)


class TestCounts:
    @pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
    def test_they_are_the_published_ones(self, golden, case):
        thresholds = case["reg_thresh"], case["reg_thresh_2"]
        assert count_pairs(golden.images, case["reg_range"], *thresholds) == len(golden[f"pairs/{case['name']}"])

    def test_more_images_than_one_tile(self, monkeypatch):
        monkeypatch.setattr(method_pairs, "TILE", (16, 40))
        images = smooth_images(123)
        for reg_range in RANGES:
            thresholds = (0.6, 0.2 if reg_range == "double" else None)
            listed = select_pairs(pixel_similarity(images), reg_range, *thresholds)
            assert count_pairs(images, reg_range, *thresholds) == len(listed)


class TestPairSampler:
    def sampler(self, images=None, **options) -> PairSampler:
        given = {"reg_range": "double", "reg_thresh": 0.8, "reg_thresh_2": 0.2, "batch_size": 5, **options}
        return PairSampler(smooth_images(40) if images is None else images, **given)

    @pytest.mark.parametrize("reg_range", RANGES)
    def test_its_distribution_is_that_of_the_list(self, way, reg_range, monkeypatch):
        monkeypatch.setattr(method_pairs, "TILE", (16, 24))
        images = smooth_images(40)
        thresholds = {"reg_thresh": 0.8, "reg_thresh_2": 0.2 if reg_range == "double" else None}
        listed = select_pairs(pixel_similarity(images), reg_range, *thresholds.values())
        sampler = self.sampler(images, reg_range=reg_range, **thresholds)
        assert sampler._listed == (way == LISTED) and sampler.count == len(listed) and sampler.total == 780
        drawn = 20 * len(listed)
        rows, columns, _ = (torch.cat(part)[:drawn] for part in zip(*islice(sampler, -(-drawn // 5)), strict=True))
        place = {tuple(pair): number for number, pair in enumerate(listed.tolist())}
        numbers = [place[pair] for pair in zip(rows.tolist(), columns.tolist(), strict=True)]
        counts = torch.tensor(numbers).bincount(minlength=len(listed))
        chi_square, freedom = ((counts - 20.0) ** 2 / 20).sum().item(), len(listed) - 1
        # Far from uniform is a large value; drawing without replacement comes closer than chance.
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
        if way == DRAWN:
            assert chi_square > freedom - 4 * (2 * freedom) ** 0.5
        else:
            assert chi_square < 0.5 * freedom

    def test_targets(self, way):
        images = smooth_images(40)
        expected = pixel_similarity(images)
        for boosting, value in ((True, 1.0), (True, 0.5), (False, 1.0)):
            sampler = self.sampler(images, reg_boosting=boosting, reg_boosting_val=value)
            for rows, columns, targets in islice(sampler, 10):
                assert (rows < columns).all() and targets.dtype == torch.float32
                assert rows.dtype == columns.dtype == torch.int64
                similarities = expected[rows, columns]
                if boosting:
                    similarities = boosted_targets(similarities, 0.8, value)
                torch.testing.assert_close(targets, similarities, rtol=0, atol=1e-6)

    def test_listed_pairs_are_used_up_before_any_comes_again(self):
        sampler = self.sampler()
        batches = sampler.count // 5
        for _ in range(3):
            rows, columns, _ = (torch.cat(part) for part in zip(*islice(sampler, batches), strict=True))
            assert len((rows * 40 + columns).unique()) == 5 * batches

    def test_many_listed_pairs_are_drawn_with_replacement_from_all_of_them(self, monkeypatch):
        """They are more than are shuffled, and too rare to draw until one is selected: a chi-square test."""
        monkeypatch.setattr(method_sampler, "_FEW", 10)
        monkeypatch.setattr(method_sampler, "_RARE", 1)
        sampler = self.sampler()
        assert sampler._listed and sampler.count > 10
        expected = select_pairs(pixel_similarity(smooth_images(40)), "double", 0.8, 0.2)
        keys = (expected[:, 0] * 40 + expected[:, 1]).tolist()
        rows, columns, _ = (torch.cat(part) for part in zip(*islice(sampler, 8 * len(keys)), strict=True))
        counts = torch.bincount(rows * 40 + columns, minlength=1600)[keys].double()
        assert counts.sum() == 40 * len(keys)  # nothing but the selected pairs
        chi_square = ((counts - 40) ** 2 / 40).sum().item()
        freedom = len(keys) - 1
        assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5

    def test_it_goes_on_exactly_from_its_state(self, way, tmp_path):
        for taken in (0, 1, 3, 20, 200):
            first, second = self.sampler(), self.sampler(seed=1)
            list(islice(first, taken))
            torch.save(first.state_dict(), tmp_path / "state.pt")
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            for ours, theirs in zip(islice(first, 50), islice(second, 50), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def test_a_seed_fixes_the_draws(self, way):
        first, same, other = (
            torch.cat([rows for rows, _, _ in islice(self.sampler(seed=seed), 50)]) for seed in (0, 0, 1)
        )
        assert torch.equal(first, same) and not torch.equal(first, other)

    def test_restart_and_reshuffle(self, way):
        sampler = self.sampler()
        first = torch.cat([rows for rows, _, _ in islice(sampler, 20)])
        sampler.reshuffle()
        assert not torch.equal(first, torch.cat([rows for rows, _, _ in islice(sampler, 20)]))
        sampler.restart()
        assert torch.equal(first, torch.cat([rows for rows, _, _ in islice(sampler, 20)]))

    def test_more_pairs_than_memory_should_hold_are_not_listed(self, monkeypatch):
        monkeypatch.setattr(method_sampler, "_FEW", 10)
        monkeypatch.setattr(method_sampler, "_RARE", 1)
        for listable, listed in ((50, False), (1000, True)):
            monkeypatch.setattr(method_sampler, "_LISTABLE", listable)
            sampler = self.sampler()
            assert sampler._listed == listed and len(next(sampler)[0]) == 5
        # The same where the first draws had told nothing of them.
        monkeypatch.setattr(method_sampler, "_LISTABLE", 20)
        monkeypatch.setattr(method_sampler, "_FEW", 780)
        sampler = self.sampler()
        assert not sampler._listed and sampler.count > 40 and len(next(sampler)[0]) == 5

    def test_a_batch_of_many_and_a_range_of_few(self, monkeypatch):
        monkeypatch.setattr(method_sampler, "_FEW", 0)
        monkeypatch.setattr(method_sampler, "_RARE", 0)
        sampler = self.sampler(reg_range="high_positive", reg_thresh=0.95, reg_thresh_2=None, batch_size=5000)
        rows, columns, targets = next(sampler)
        assert len(rows) == 5000 and (targets == 1).all() and sampler.share < 0.2

    def test_what_is_listed_and_what_is_not(self, monkeypatch):
        """Counted work: a range of many pairs needs no pass over all pairs, and one of few needs one."""
        monkeypatch.setattr(method_sampler, "_FEW", 100)
        passes, tiles = [], method_pairs.tiles
        for module in (method_pairs, method_sampler):
            monkeypatch.setattr(module, "tiles", lambda directions: passes.append(1) or tiles(directions))
        many = self.sampler(smooth_images(300))
        list(islice(many, 50))
        assert not passes and not many._listed and str(many).startswith("about ") and str(many).endswith("% of 44,850")
        assert abs(many.count / many.total - many.share) < 0.04 and len(passes) == 1
        few = self.sampler(smooth_images(300), reg_range="high_positive", reg_thresh=0.995, reg_thresh_2=None)
        list(islice(few, 50))
        assert len(passes) == 2 and few._listed and str(few) == f"{few.count:,} of 44,850"

    def test_images_that_equal_the_mean_are_never_drawn(self, way):
        images = torch.cat([smooth_images(20), 255 - smooth_images(20), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)])
        images = images.float() / 255
        images[-1] = images[:-1].mean(dim=0)
        sampler = self.sampler(images, reg_range="all", reg_thresh_2=None)
        assert sampler.count == 40 * 39 // 2
        assert all((columns < 40).all() for _, columns, _ in islice(sampler, 400))

    def test_rgb_is_averaged_to_one_channel(self, way):
        rgb = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        expected = pixel_similarity(rgb.double().mean(dim=1, keepdim=True))
        rows, columns, targets = next(self.sampler(rgb, reg_range="all", reg_thresh_2=None, reg_boosting=False))
        torch.testing.assert_close(targets, expected[rows, columns], rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"reg_range": "hgh"}, "reg_range=hgh: no such range"),
            ({"reg_thresh_2": 0.9}, "reg_thresh_2=0.9: must be below reg_thresh=0.8"),
            ({"reg_thresh": 0.9999, "reg_range": "high", "reg_thresh_2": None}, "reg_range=high: selects 0 of the 780"),
            ({"batch_size": 781, "reg_range": "all", "reg_thresh_2": None}, "reg_batch_size=781: a step needs as many"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(InputError, match=message):
            self.sampler(**options)


@given(
    st.integers(3, 30), st.sampled_from(sorted(RANGES)), st.floats(0.05, 0.9), st.integers(0, 1000), st.integers(1, 6)
)
@settings(deadline=None, max_examples=60)
def test_whatever_is_sampled_is_selected_and_a_round_holds_every_pair_once(count, reg_range, thresh, seed, size):
    images = smooth_images(count, seed)
    thresholds = (thresh, thresh / 2 if reg_range == "double" else None)
    listed = {tuple(pair) for pair in select_pairs(pixel_similarity(images), reg_range, *thresholds).tolist()}
    options = {"reg_range": reg_range, "reg_thresh": thresholds[0], "reg_thresh_2": thresholds[1]}
    if len(listed) < size:
        with pytest.raises(InputError):
            PairSampler(images, batch_size=size, seed=seed, **options)
        return
    sampler = PairSampler(images, batch_size=size, seed=seed, **options)
    assert sampler.count == len(listed)
    drawn: list[tuple[int, int]] = []
    for rows, columns, _ in islice(sampler, len(listed) // size):
        drawn += zip(rows.tolist(), columns.tolist(), strict=True)
    assert len({*drawn}) == len(drawn) == len(listed) // size * size and {*drawn} <= listed
