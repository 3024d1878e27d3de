import copy

import pytest
import torch
import torch.nn.functional as F

from brainreg.errors import InputError
from brainreg.method.loss import similarity_loss
from brainreg.method.pairs import select_pairs
from brainreg.method.similarity import boosted_targets
from brainreg.models.base import InputScaling
from brainreg.models.build import build_model
from brainreg.models.names import RESNETS
from brainreg.models.published_weights import load_published_state
from brainreg.models.resnet import ARCHITECTURES


@pytest.fixture
def published(golden):
    model = build_model("ResNet18", in_channels=1, num_classes=10, base_channels=8)
    load_published_state(model, golden.published_state)
    return model


def scaled(images):
    return InputScaling(centered=True)(images.float() / 255)


def test_logits_equal_the_published(published, golden):
    logits = published.eval()(scaled(golden.images[:32]))
    torch.testing.assert_close(logits, golden["model/eval_logits"], rtol=1e-4, atol=1e-6)


def test_four_training_steps_equal_the_published(published, golden):
    """The golden trace: three passes in order, one backward, one step of SGD with momentum."""
    lr, momentum, alpha = golden["train/hyper"].tolist()
    images, labels, similarity = scaled(golden.images), golden["labels"], golden["similarity"]
    selected = {tuple(pair) for pair in select_pairs(similarity, "double", 0.4, 0.1).tolist()}
    optimizer = torch.optim.SGD(published.parameters(), lr=lr, momentum=momentum)
    published.train()
    for step in range(4):
        batch, pairs = golden[f"train/{step}/batch"].long(), golden[f"train/{step}/pairs"].long()
        assert {tuple(pair) for pair in pairs.tolist()} <= selected
        rows, columns = pairs.T
        cross_entropy = F.cross_entropy(published(images[batch]), labels[batch])
        scores = published.pair_similarity(images[rows], images[columns])
        loss = similarity_loss(scores, boosted_targets(similarity[rows, columns], 0.4))
        total = cross_entropy + alpha * loss
        torch.testing.assert_close(scores, golden[f"train/{step}/scores"], rtol=0, atol=1e-2)
        found = torch.stack([cross_entropy, loss, total]).detach().double()
        # Each step at this learning rate multiplies what another processor rounds otherwise.
        torch.testing.assert_close(found, golden["train/losses"][step], rtol=1e-4 if step == 0 else 1e-2, atol=0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for i in range(5):
        mean = published.get_buffer(f"channel_mean_{i}")
        torch.testing.assert_close(mean, golden[f"train/running_mean/{i}"], rtol=5e-2, atol=0)


def test_every_name_is_that_of_a_network():
    assert tuple(ARCHITECTURES) == RESNETS


@pytest.mark.parametrize("archi", ARCHITECTURES)
def test_a_folded_network_has_no_normalization_and_the_same_logits(archi):
    torch.manual_seed(0)
    network, images = build_model(archi, 1, 10, 4, 16), torch.rand(8, 1, 16, 16)
    network.train()
    for _ in range(3):
        network(torch.rand(16, 1, 16, 16))
    folded = network.eval().folded()
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)


def test_similarities_are_float32_where_convolutions_are_not(published, golden):
    images = scaled(golden.images)
    exact = copy.deepcopy(published).pair_similarity(images[:8], images[8:16])
    with torch.autocast("cpu", torch.bfloat16):
        assert published(images[:2]).dtype == torch.bfloat16
        rough = published.pair_similarity(images[:8], images[8:16])
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05


def test_every_parameter_learns_from_the_total_loss(published, golden):
    images = scaled(golden.images)
    published.train()
    total = published(images[:8]).square().mean() + published.pair_similarity(images[8:16], images[16:24]).mean()
    total.backward()
    without = [name for name, parameter in published.named_parameters() if parameter.grad is None]
    assert without == []


def test_published_weights_of_another_size_are_refused(golden):
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_published_state(build_model("ResNet18", base_channels=4), golden.published_state)


# Of the published architectures at 64 channels, gray, 10 classes: convolutions, and parameters by hand from
# the layer table (weights of convolutions and the linear layer, two a channel of BatchNorm, five scalars).
@pytest.mark.parametrize(
    ("archi", "convolutions", "parameters"),
    [
        ("ResNet18", 20, 11_175_375),
        ("ResNet34", 36, 21_283_535),
        ("ResNet50", 53, 23_522_255),
        ("ResNet101", 104, 42_514_383),
    ],
)
def test_layer_and_parameter_counts(archi, convolutions, parameters):
    model = build_model(archi)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) == convolutions
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("archi", ARCHITECTURES)
@pytest.mark.parametrize(("image_size", "features"), [(16, 1), (28, 1), (32, 1), (224, 49)])
def test_image_sizes_end_where_the_method_says(archi, image_size, features):
    model = build_model(archi, in_channels=3, num_classes=7, base_channels=2, image_size=image_size).eval()
    expansion = ARCHITECTURES[archi].block.expansion
    assert model.classifier.in_features == 16 * expansion * features
    assert model(torch.rand(2, 3, image_size, image_size)).shape == (2, 7)


def test_pairs_may_have_another_size_than_the_task(published):
    assert published.pair_similarity(torch.rand(3, 1, 36, 64), torch.rand(3, 1, 36, 64)).shape == (3,)


def test_channel_means_move_by_a_tenth_in_either_mode(published, golden):
    images = scaled(golden.images)
    for mode in (True, False):
        model = build_model("ResNet18", base_channels=8).train(mode)
        with torch.no_grad():
            # In train mode BatchNorm normalizes each batch by itself, so the maps do not depend on the pass.
            maps = [
                torch.cat(pair) for pair in zip(model.features(images[:8]), model.features(images[8:16]), strict=True)
            ]
            model.pair_similarity(images[:8], images[8:16])
        if mode:
            for i, both in enumerate(maps):
                torch.testing.assert_close(model.get_buffer(f"channel_mean_{i}"), 0.1 * both.mean(dim=(0, 2, 3)))
        assert (model.channel_mean_0 != 0).any()


def test_an_image_is_as_similar_as_can_be_to_itself(published, golden):
    images = scaled(golden.images[:4])
    torch.testing.assert_close(published.train().pair_similarity(images, images), torch.ones(4), rtol=0, atol=1e-5)


def test_an_unknown_architecture_is_named():
    with pytest.raises(InputError, match=r"ResNet19: no such architecture; did you mean ResNet18"):
        build_model("ResNet19")


class TestTimm:
    @pytest.mark.parametrize(
        ("name", "size", "widths"),
        [
            ("convnext_atto", 32, [40, 80, 160, 320]),
            ("resnet18", 32, [64, 64, 128, 256, 512]),
            ("test_efficientnet", 28, [16, 24, 32, 48, 64]),
            ("regnety_002", 36, [32, 24, 56, 152, 368]),
        ],
    )
    def test_convolutional_networks_classify_and_compare(self, name, size, widths):
        model = build_model(f"timm:{name}", in_channels=3, num_classes=7, image_size=size)
        images = torch.rand(4, 3, size, size)
        assert model(images).shape == (4, 7) and model.training
        assert [feature.shape[1] for feature in model.features(images)] == widths
        assert torch.equal(model.eval()(images), model.backbone(images))
        scores = model.pair_similarity(images[:2], images[2:])
        assert scores.shape == (2,) and (scores.abs() <= 1).all()
        again = model.pair_similarity(images[:2], images[:2])
        torch.testing.assert_close(again, torch.ones(2))
        (model(images).square().mean() + scores.mean()).backward()
        assert model.similarity_weights.grad is not None

    def test_pairs_may_have_another_size_than_the_task(self):
        model = build_model("timm:convnext_atto", in_channels=1, image_size=32)
        assert model.pair_similarity(torch.rand(2, 1, 36, 64), torch.rand(2, 1, 36, 64)).shape == (2,)

    @pytest.mark.parametrize("image_size", [32, 224])  # most take no other size than their own
    @pytest.mark.parametrize("name", ["test_vit", "deit_tiny_patch16_224", "vit_tiny_patch16_224"])
    def test_stages_that_are_no_maps_are_refused(self, name, image_size):
        with pytest.raises(InputError, match=f"archi=timm:{name}: ") as caught:
            build_model(f"timm:{name}", in_channels=3, image_size=image_size)
        assert "needs a convolutional network" in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["test_mambaout", "tresnet_m"])
    def test_channels_last_and_stages_without_a_name(self, name):
        """The former has its channels last, the latter names a stage that is the whole network."""
        model = build_model(f"timm:{name}", in_channels=1, image_size=32)
        maps = model.features(torch.rand(2, 1, 32, 32))
        means = [model.get_buffer(f"channel_mean_{i}") for i in range(len(maps))]
        assert [feature.shape[1] for feature in maps] == [len(mean) for mean in means]
        assert model.pair_similarity(torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)).shape == (2,)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("selecsls42", "its stage features.1 gives several tensors"),
            ("botnet26t_256", r"does not take images of 32x32 \(AssertionError\)"),
        ],
    )
    def test_what_else_cannot_be_compared_is_refused(self, name, message):
        with pytest.raises(InputError, match=f"archi=timm:{name}: {message}"):
            build_model(f"timm:{name}", in_channels=1, image_size=32)

    def test_an_unknown_name_is_answered_with_the_nearest(self):
        with pytest.raises(InputError, match=r"timm has no such model; did you mean .*timm:convnext_atto") as caught:
            build_model("timm:convnext_ato")
        assert len(str(caught.value)) < 200

    def test_images_that_are_too_small(self):
        with pytest.raises(InputError, match="archi=timm:convnext_atto: does not take images of 3x3"):
            build_model("timm:convnext_atto", image_size=3)
