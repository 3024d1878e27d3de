"""Folders as people have them: every kind of image, and what systems, notebooks and links leave beside them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from brainreg.data import images as data_images
from brainreg.data.images import class_names, list_images, read_image
from brainreg.data.load import load_dataset, load_training_images
from brainreg.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path, pixels=RAMP, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of six images in train and test; each image is the same ramp but for its first pixels."""
    for part in ("train", "test"):
        for name in "ab":
            for i in range(6):
                pixels = RAMP.copy()
                pixels[0, :3] = i, ord(name), ord(part[1])
                save(tmp_path / "images" / part / name / f"{i}.png", pixels)
    return tmp_path / "images"


def one_line(action, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestPixels:
    """What is read of the ramp from 0 to 255, however it was stored."""

    @pytest.mark.parametrize(
        ("file", "pixels", "tolerance"),
        [
            ("8.png", RAMP, 0),
            ("16.png", RAMP.astype(np.uint16) * 257, 0),
            ("16.tif", RAMP.astype(np.uint16) * 257, 0),
            ("float.tif", RAMP.astype(np.float32) / 255, 0),
            ("float_rounded.tif", RAMP.astype(np.float32) / 255 * 1.000001, 0),
            ("alpha.png", np.stack([RAMP, np.full_like(RAMP, 255)], -1), 0),
            ("color_alpha.png", np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], -1), 0),
            ("lossless.webp", np.stack([RAMP] * 3, -1), 0),
            ("palette.png", Image.fromarray(RAMP).convert("P"), 0),
            ("cmyk.tif", Image.fromarray(np.stack([RAMP] * 3, -1)).convert("CMYK"), 0),
            ("cmyk.jpg", Image.fromarray(np.stack([RAMP] * 3, -1)).convert("CMYK"), 8),
            ("gray.jpg", RAMP, 8),
            ("gray.bmp", RAMP, 0),
            ("gray.pgm", RAMP, 0),
        ],
    )
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_of_every_kind_of_file(self, tmp_path, file, pixels, tolerance, mode):
        options = {"lossless": True} if file.endswith("webp") else {"quality": 100} if file.endswith("jpg") else {}
        path = save(tmp_path / file, pixels, **options)
        found = np.asarray(read_image(str(path), mode)).astype(int)
        assert found.shape == ((16, 16) if mode == "L" else (16, 16, 3))
        assert np.abs(found - (RAMP if mode == "L" else RAMP[..., None])).max() <= tolerance

    def test_of_one_bit(self, tmp_path):
        path = save(tmp_path / "1.png", Image.fromarray(RAMP > 99))
        assert np.array_equal(np.asarray(read_image(str(path), "L")), np.where(RAMP > 99, 255, 0))

    @pytest.mark.parametrize("big", [65535, 1023])
    def test_of_a_portable_graymap_of_more_than_8_bits(self, tmp_path, big):
        values = (RAMP.astype(int) * big // 255).astype(">u2")
        (tmp_path / "16.pgm").write_bytes(b"P5 16 16 %d\n" % big + values.tobytes())
        found = np.asarray(read_image(str(tmp_path / "16.pgm"), "L")).astype(int)
        assert np.abs(found - RAMP).max() <= 1

    @pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
    def test_a_turned_photograph_is_upright(self, tmp_path, ending):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to the right
        path = save(tmp_path / f"turned.{ending}", np.where(RAMP < 128, 0, 255).astype(np.uint8), exif=exif)
        found = np.asarray(read_image(str(path), "L")).astype(int)
        assert found[:, :7].min() > 200 and found[:, 9:].max() < 50

    def test_transparent_pixels_are_told_of(self, tmp_path, caplog):
        data_images._note_transparent.cache_clear()
        clear = np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], -1)
        read_image(str(save(tmp_path / "opaque.png", clear)), "L")
        assert caplog.text == ""
        clear[0, 0, 3] = 0
        path = save(tmp_path / "clear.png", clear)
        assert np.array_equal(np.asarray(read_image(str(path), "L")), RAMP)
        read_image(str(path), "L")
        assert caplog.text.count("transparent") == 1

    @pytest.mark.parametrize(
        ("file", "pixels", "said"),
        [
            ("float.tif", RAMP.astype(np.float32), "float pixels from 0 to 255; must be from 0 to 1"),
            ("negative.tif", RAMP.astype(np.float32) / 255 - 0.5, "float pixels from -0.5 to 0.5"),
            ("nan.tif", np.full((16, 16), np.nan, np.float32), "float pixels from nan to nan"),
            ("32.tif", RAMP.astype(np.int32) * 2**20, "32 bits"),
        ],
    )
    def test_of_no_known_range_are_refused(self, tmp_path, file, pixels, said):
        path = save(tmp_path / file, pixels)
        message = one_line(read_image, str(path), "L")
        assert message.startswith(f"{path}: ") and said in message

    @pytest.mark.parametrize("ending", ["tif", "png", "webp"])
    def test_several_images_in_a_file_are_refused(self, tmp_path, ending):
        frames = [Image.fromarray(np.roll(RAMP, i)).convert("RGB") for i in range(3)]
        path = save(tmp_path / f"film.{ending}", frames[0], save_all=True, append_images=frames[1:])
        assert one_line(read_image, str(path), "L") == f"{path}: holds 3 images; a file must hold one"

    def test_a_cameras_previews_do_not_matter(self, tmp_path):
        first = Image.fromarray(np.stack([RAMP] * 3, -1))
        path = save(tmp_path / "camera.mpo", first, save_all=True, append_images=[first.resize((4, 4))], quality=100)
        path = path.rename(tmp_path / "camera.jpg")
        assert read_image(str(path), "L").size == (16, 16)

    def test_the_content_counts_and_not_the_ending(self, tmp_path):
        path = save(tmp_path / "1.png").rename(tmp_path / "1.jpg")
        assert np.array_equal(np.asarray(read_image(str(path), "L")), RAMP)

    @pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "pgm", "webp"])
    def test_damaged_files_are_named(self, tmp_path, ending):
        path = save(tmp_path / f"damaged.{ending}", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
        whole = path.read_bytes()
        for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2], whole[:20]):
            path.write_bytes(content)
            assert one_line(read_image, str(path), "L").startswith(f"{path}: cannot be read (")

    def test_masks_and_files_of_fewer_bits_are_told_of(self, folder, tmp_path, caplog):
        for path in folder.rglob("*.png"):
            save(path, RAMP // 64)
        found, _ = load_dataset(str(folder), "train", tmp_path)
        assert found.max() == 3 and "brightest pixel of all is 3 of 255" in caplog.text


class TestFolders:
    @pytest.mark.parametrize(
        "extra",
        [
            "train/.ipynb_checkpoints/0.png",
            "train/a/.ipynb_checkpoints/0.png",
            "train/__MACOSX/0.png",
            "__MACOSX/train/a/0.png",
            "train/a/._0.png",
            "train/@eaDir/0.png",
            "train/a/.hidden.png",
            "train/.DS_Store/0.png",
        ],
    )
    def test_hidden_files_and_those_of_systems_are_no_images(self, folder, tmp_path, extra):
        save(folder / extra)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README.txt"):
            (folder / "train" / "a" / name).write_bytes(b"x")
            (folder / "train" / name).exists() or (folder / "train" / name).write_bytes(b"x")
        found, labels = load_dataset(str(folder), "train", tmp_path)
        assert len(found) == 12 and labels.tolist() == [0] * 6 + [1] * 6

    def test_folders_below_a_class_are_its_own(self, folder):
        save(folder / "train/a/below/deeper/x.png")
        listed = list_images(folder / "train", ["a", "b"])
        assert [label for _, label in listed.samples] == [0] * 7 + [1] * 6

    def test_links_to_the_outside_are_followed(self, folder, tmp_path):
        save(tmp_path / "elsewhere" / "c" / "0.png")
        (folder / "train" / "c").symlink_to(tmp_path / "elsewhere" / "c")
        (folder / "train" / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "c" / "0.png")
        assert class_names(folder / "train") == ["a", "b", "c"]
        assert [label for _, label in list_images(folder / "train", ["a", "b", "c"]).samples].count(0) == 7

    @pytest.mark.parametrize(
        ("link", "target"),
        [("train/a/again", "train"), ("train/a/again", "train/a"), ("train/a/more", "train/b"), ("train/c", "train/a")],
    )
    def test_no_image_counts_twice(self, folder, tmp_path, link, target):
        (folder / link).symlink_to(folder / target)
        message = one_line(load_dataset, str(folder), "train", tmp_path)
        assert "the same folder as" in message and str(folder) in message

    @pytest.mark.parametrize("kind", ["link to nothing", "link to itself", "not a file"])
    def test_what_is_no_file_is_named(self, folder, tmp_path, kind):
        path = folder / "train" / "a" / "odd.png"
        if kind == "not a file":
            os.mkfifo(path)
        else:
            path.symlink_to(path if kind == "link to itself" else "absent.png")
        assert one_line(load_dataset, str(folder), "train", tmp_path).startswith(f"{path}: ")

    def test_test_images_that_are_the_training_images_are_refused(self, folder, tmp_path):
        (folder / "test").rename(tmp_path / "aside")
        (folder / "test").symlink_to(folder / "train")
        assert "images to test on must be others" in one_line(load_dataset, str(folder), "test", tmp_path)

    @pytest.mark.parametrize(("files", "told"), [([], "no images in it;"), (["0.gif", "1.gif"], "(2 files of .gif)")])
    def test_an_empty_class_is_named(self, folder, tmp_path, files, told):
        (folder / "train" / "c").mkdir()
        for name in files:
            save(folder / "train" / "c" / name)
        message = one_line(load_dataset, str(folder), "train", tmp_path)
        assert message.startswith(f"{folder / 'train' / 'c'}: ") and told in message

    def test_images_of_other_endings_are_told_of(self, folder, tmp_path, caplog):
        save(folder / "train/a/film.gif")
        (folder / "train/a/notes.txt").write_text("x")
        found, _ = load_dataset(str(folder), "train", tmp_path)
        assert len(found) == 12 and "1 files of .gif" in caplog.text and ".txt" not in caplog.text

    def test_parts_without_train_are_no_classes(self, folder, tmp_path):
        (folder / "train").rename(folder / "validation")
        message = one_line(load_dataset, str(folder), "train", tmp_path)
        assert message.startswith(f"{folder}: test, validation in it, but no train")

    def test_classes_of_one_image_leave_nothing_to_test_on(self, tmp_path):
        for name in "abc":
            save(tmp_path / "images" / name / "0.png")
        assert "no class has two images" in one_line(load_dataset, str(tmp_path / "images"), "test", tmp_path)

    @pytest.mark.parametrize("name", ["a,b", "a\nb", "caf\xe9", "a b", os.fsdecode(b"\xff\xfe"), "*", "-rf", "%s"])
    def test_odd_names_are_names(self, folder, tmp_path, name):
        (folder / "train" / "a").rename(folder / "train" / name)
        (folder / "test" / "a").rename(folder / "test" / name)
        save(folder / "train" / "b" / f"{name}.png")
        found, labels = load_dataset(str(folder), "train", tmp_path)
        assert len(found) == 13 and labels.bincount().tolist() in ([6, 7], [7, 6])
        again, _ = load_dataset(str(folder), "train", tmp_path)
        assert torch.equal(found, again)
        (folder / "train" / name / "0.png").write_bytes(b"")
        message = one_line(load_dataset, str(folder), "train", tmp_path)
        assert "0.png: cannot be read (the file is empty)" in message

    def test_unreadable_folders_do_not_vanish(self, folder, tmp_path, monkeypatch):
        scan = os.scandir

        def deny(path):
            if str(path).endswith("train/b"):  # as the system does for anybody but root
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", deny)
        message = one_line(load_dataset, str(folder), "train", tmp_path)
        assert message.startswith(f"{folder / 'train' / 'b'}: cannot be read (Permission denied)")


def test_the_order_is_torchvisions(folder):
    from torchvision.datasets import ImageFolder

    for name in ("below/0.png", "Below/1.PNG", "0a.jpeg", "_.png", "10.png"):
        save(folder / "train" / "a" / name)
    expected = ImageFolder(folder / "train")
    assert class_names(folder / "train") == expected.classes
    assert list_images(folder / "train", expected.classes).samples == expected.samples


def test_files_of_many_sizes_are_read_alike(imagenet_folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = imagenet_folder / "ImageNet" / "train" / "a" / "00.png"
    with Image.open(path) as image:
        upright = np.asarray(image.rotate(-90, expand=True))
        image.save(path, exif=exif)
    (image,) = load_training_images("ImageNet", imagenet_folder, rgb=True).images[torch.tensor([0])]
    assert np.array_equal(image.permute(1, 2, 0), upright)
