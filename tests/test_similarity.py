import pytest
import torch
from conftest import Golden

from brainreg.errors import InputError
from brainreg.similarity import RANGES, boosted_targets, pixel_similarity, select_pairs

CASES = Golden().cases


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
