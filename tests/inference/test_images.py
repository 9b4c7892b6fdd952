"""Images of every kind become RGB the right way up, compared with the pixels that they were made of."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtmamba.inference.images import pixel_count, read_photo
from mtmamba.inference.sources import SourceError, find_images, find_videos, is_video

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
GREY = RGB[..., 0]


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_lossless_formats(tmp_path, name):
    photo = read_photo(saved(tmp_path, Image.fromarray(RGB), name, **({"lossless": True} if "webp" in name else {})))
    assert np.array_equal(photo.pixels, RGB)
    assert photo.done == ()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpegs(tmp_path, options):
    smooth = np.array(Image.fromarray(RGB).resize((64, 48), Image.Resampling.BICUBIC))
    photo = read_photo(saved(tmp_path, Image.fromarray(smooth), "a.jpg", quality=95, **options))
    assert np.abs(photo.pixels.astype(int) - smooth).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path, orientation):
    """The image is stored turned or mirrored so that the orientation's own operation sets it upright."""
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_photo(saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "a.png", exif=exif))
    assert np.array_equal(photo.pixels, RGB)
    assert (photo.done == ()) == (orientation == 1)


def test_an_orientation_that_there_is_not_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    photo = read_photo(saved(tmp_path, Image.fromarray(RGB), "a.png", exif=exif))
    assert np.array_equal(photo.pixels, RGB)
    assert photo.done == ()


def test_grey_and_palette(tmp_path):
    assert np.array_equal(
        read_photo(saved(tmp_path, Image.fromarray(GREY), "g.png")).pixels, GREY[..., None].repeat(3, 2)
    )
    few = Image.fromarray(RGB // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.array_equal(read_photo(saved(tmp_path, few, "p.png")).pixels, np.array(few.convert("RGB")))


def test_sixteen_bits(tmp_path):
    deep = (GREY.astype(np.uint16) << 8) | GREY  # 257 times the value
    photo = read_photo(saved(tmp_path, Image.fromarray(deep), "d.png"))
    assert np.array_equal(photo.pixels, GREY[..., None].repeat(3, 2))
    assert "to 8 bits" in photo.done[0]


def test_float_tiff_in_0_to_1(tmp_path):
    photo = read_photo(saved(tmp_path, Image.fromarray(GREY.astype(np.float32) / 255), "f.tif"))
    assert np.array_equal(photo.pixels[..., 0], GREY)


def test_what_is_no_number_in_a_float_tiff_is_black_and_alters_nothing_else(tmp_path):
    values = GREY.astype(np.float32) / 255
    values[0, :3] = np.nan, np.inf, -np.inf
    photo = read_photo(saved(tmp_path, Image.fromarray(values), "f.tif"))
    assert (photo.pixels[0, :3] == 0).all()
    assert np.array_equal(photo.pixels[1:, :, 0], GREY[1:])


def test_alpha_lies_over_white(tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, GREY.shape, np.uint8)
    photo = read_photo(saved(tmp_path, Image.fromarray(np.dstack((RGB, alpha))), "a.png"))
    share = alpha[..., None] / 255
    assert np.abs(photo.pixels - (RGB * share + 255 * (1 - share))).max() <= 1
    assert photo.done == ("alpha over white",)


def test_cmyk(tmp_path):
    cmyk = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).convert("CMYK")
    photo = read_photo(saved(tmp_path, cmyk, "c.jpg", quality=100))
    assert np.abs(photo.pixels.astype(int) - (200, 100, 50)).max() <= 4
    assert photo.done == ("mode CMYK to RGB",)


def test_the_first_frame_of_an_animation(tmp_path):
    others = [Image.new("RGB", (4, 4), colour) for colour in ("green", "blue")]
    path = saved(tmp_path, Image.new("RGB", (4, 4), "red"), "a.gif", save_all=True, append_images=others)
    photo = read_photo(path)
    assert (photo.pixels == (255, 0, 0)).all()
    assert photo.done[0] == "first of 3 frames"


def test_arrays_tensors_and_pil():
    assert np.array_equal(read_photo(RGB).pixels, RGB)
    assert np.array_equal(read_photo(Image.fromarray(RGB)).pixels, RGB)
    tensor = torch.from_numpy(RGB).movedim(-1, 0)
    assert np.array_equal(read_photo(tensor).pixels, RGB)
    assert np.array_equal(read_photo(tensor / 255).pixels, RGB)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GREY, r"\(H, W, 3\) in the order red, green, blue, got uint8 \(9, 13\)"),
        (RGB / 255, "got float64"),
        (torch.rand(2, 3, 4, 4), r"tensor \(3, H, W\), got \(2, 3, 4, 4\)"),
        (torch.rand(3, 4, 4) * 255, r"in 0\.\.1, got"),
        (torch.full((3, 4, 4), float("nan")), r"in 0\.\.1, got nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8 or float, got torch.int64"),
        (7, "got int"),
        (Image.new("RGB", (0, 4)), "in memory, got one without pixels"),
        ("no/such.png", "got no/such.png, no such file"),
    ],
)
def test_what_is_no_image_is_refused(source, message):
    with pytest.raises(SourceError, match=message):
        read_photo(source)


def test_broken_files(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-3000])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"Expected an image file, got .*empty.png, an empty file: check"):
        read_photo(tmp_path / "empty.png")
    for name in ("cut.jpg", "text.jpg"):
        with pytest.raises(SourceError, match=rf"whole image that Pillow reads in .*{name}, got"):
            read_photo(tmp_path / name)
    assert pixel_count(tmp_path / "text.jpg") == 0
    with pytest.raises(SourceError, match="whole image that Pillow reads in memory, got image file is truncated"):
        read_photo(Image.open(tmp_path / "cut.jpg"))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it mends
@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "png", "tif", "webp"])
def test_whatever_damage_is_an_answer(tmp_path, suffix):
    """Pillow's decoders raise IndexError, RuntimeError, TypeError and more: one such file ended a whole folder."""
    image, whole, path = Image.fromarray(np.tile(RGB, (4, 4, 1))), io.BytesIO(), tmp_path / f"damaged.{suffix}"
    try:
        image.save(whole, Image.registered_extensions()[f".{suffix}"])
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {suffix}")
    generator, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = np.frombuffer(whole.getvalue(), np.uint8).copy()
        places = generator.integers(0, min(len(damaged), 300), 3)
        damaged[places] = generator.integers(0, 256, 3, np.uint8)
        path.write_bytes(damaged.tobytes())
        if pixel_count(path) > 1e6:
            continue
        try:
            assert read_photo(path).pixels.dtype == np.uint8
        except SourceError:
            refused += 1
    assert refused


def test_results_below_a_folder_are_no_input(tmp_path):
    """A second call into the same save_dir, inside the source, had predicted the first one's pictures."""
    for place in ("room.png", "out/pictures/depth/room.png", "other/room.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "out/predictions.json").touch()
    assert [item.name for item in find_images(tmp_path)] == ["other/room", "room"]
    assert [item.name for item in find_images(tmp_path / "out")] == ["pictures/depth/room"]  # who asks has them


def test_names_of_results(tmp_path):
    for name in ("b/room.png", "a/room.jpg", "a/room.png", "a/x = ü.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [item.name for item in find_images(tmp_path)]
    assert names == ["a/room_jpg", "a/room_png", "a/x = ü", "b/room"]
    assert [item.name for item in find_images(str(tmp_path / "*/room.png"))] == ["a/room", "b/room"]
    twice = find_images([tmp_path / "a/room.png", tmp_path / "b/room.png"])
    assert [item.name for item in twice] == ["room_png", "room_png_2"]


def test_names_are_cut_to_what_a_file_can_be_called(tmp_path):
    """One that was too long once its suffix told it from another had ended the call, the others' results written."""
    for folder, suffix in (("a", "jpg"), ("b", "png"), ("c", "png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{'é' * 125}.{suffix}").write_bytes(b"x")
    (tmp_path / "a" / f"{'é' * 125}.png").write_bytes(b"x")
    names = [item.name for item in find_images([tmp_path / "a", *tmp_path.glob("[bc]/*"), f"http://host/{'u' * 300}"])]
    assert len(set(names)) == 5
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"{name}.png").touch()


def test_images_that_are_no_files_are_listed_and_said(tmp_path):
    """A link that leads nowhere or in a circle, and a pipe, which is never waited for; folders are gone through."""
    (tmp_path / "lost.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for source in (tmp_path, tmp_path / "*.jpg"):
        found = {item.name: item.source for item in find_images(source)}
        assert sorted(found) == ["circle", "lost", "pipe"]
        for name, kind in [("lost", "a link to gone.jpg"), ("circle", "a link to circle.jpg"), ("pipe", "a pipe")]:
            assert pixel_count(Path(found[name])) == 0
            with pytest.raises(SourceError, match=f"{name}.jpg, {kind}"):
                read_photo(found[name])


@pytest.mark.parametrize("source", ["nothing/here", "nothing/*.jpg"])
def test_sources_that_mean_nothing(source):
    with pytest.raises(SourceError, match=f"got {source.replace('*', '.')}, no such file"):
        find_images(source)


def test_a_named_file_that_cannot_be_read_is_refused_before_a_network_is_loaded(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    for name, what in [("pipe.png", "a pipe"), ("link.png", "a link to gone.png that leads nowhere")]:
        with pytest.raises(SourceError, match=f"^Expected an image, a folder, .*{what}"):
            find_images(tmp_path / name)


def test_no_name_is_no_folder():
    with pytest.raises(SourceError, match="got an empty name"):
        find_images("")


def test_videos_have_names_of_their_own(tmp_path):
    for name in ("a/film.mp4", "b/film.mp4", "b/film.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_videos([str(tmp_path / "*/film.mp4"), "0", "rtsp://camera/hall"])
    assert [item.name for item in found] == ["a/film", "b/film", "camera_0", "hall"]
    twice = find_videos([str(tmp_path / name) for name in ("a/film.mp4", "b/film.mp4", "b/film.mov")])
    assert [item.name for item in twice] == ["film_mp4", "film_mp4_2", "film_mov"]
    with pytest.raises(SourceError, match=r"got .*none\.mp4, no such file"):
        find_videos([str(tmp_path / "none.mp4")])


def test_a_folder_is_no_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "holiday.ts"):
        (tmp_path / name).mkdir()
        assert not is_video(name)


def test_what_is_a_video():
    assert all(is_video(source) for source in ("0", "a/film.MP4", "rtsp://camera/1", "/dev/video0"))
    assert not any(is_video(source) for source in ("a.png", "folder", "2020.jpg"))
