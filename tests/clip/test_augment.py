from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raypose.clip.augment import augment, copy_size, normalize, train_size
from raypose.config import AugmentConfig

STILL = AugmentConfig(
    min_area=1, max_stretch=1, max_rotation=0, flip=False, brightness=0, contrast=0, erase=0
)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_normalize_gives_zero_mean_and_unit_deviation() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    plain = pixels.float() / 255
    mean, std = plain.mean(dim=(0, 2, 3)).tolist(), plain.std(dim=(0, 2, 3)).tolist()
    made = normalize(pixels, mean, std)
    torch.testing.assert_close(made.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_nothing_asked_changes_nothing() -> None:
    plain = images()
    changed = augment(plain, list("abcd"), STILL, size=24, seed=0, epoch=0)
    torch.testing.assert_close(changed, plain, atol=1e-4, rtol=0)


def test_draws_follow_from_seed_epoch_and_id_alone() -> None:
    plain, config = images(), AugmentConfig()
    all_four = augment(plain, list("abcd"), config, size=24, seed=1, epoch=2)
    shuffled = augment(plain[[2, 0]], ["c", "a"], config, size=24, seed=1, epoch=2)
    torch.testing.assert_close(shuffled, all_four[[2, 0]])
    for seed, epoch in ((2, 2), (1, 3)):
        other = augment(plain, list("abcd"), config, size=24, seed=seed, epoch=epoch)
        assert not torch.allclose(other, all_four)


def test_flip_mirrors_left_and_right_only() -> None:
    config = STILL.model_copy(update={"flip": True})
    plain = images(16)
    changed = augment(plain, [str(k) for k in range(16)], config, size=24, seed=0, epoch=0)
    kept = [torch.allclose(a, b, atol=1e-4) for a, b in zip(changed, plain, strict=True)]
    mirrored = [
        torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(changed, plain, strict=True)
    ]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert 0 < sum(mirrored) < 16


@pytest.mark.parametrize("key", ["brightness", "contrast", "erase"])
def test_each_change_does_something(key: str) -> None:
    config = STILL.model_copy(update={key: 1.0})
    changed = augment(images(), list("abcd"), config, size=24, seed=0, epoch=0)
    assert not torch.allclose(changed, images(), atol=1e-3)
    if key == "erase":
        assert (changed == 0).all(dim=1).flatten(1).sum(1).min() >= 4


def test_crops_are_as_sharp_as_whole_pictures() -> None:
    """Cut out of a larger copy: detail survives that a copy of the tower's size has lost."""
    config = STILL.model_copy(update={"min_area": 0.5})
    side = copy_size(config, 24)
    assert side == 36
    copies = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    small = F.interpolate(copies, (24, 24), mode="bicubic", antialias=True)
    names = [str(k) for k in range(8)]
    sharp, blurred = (
        augment(given, names, config, size=24, seed=0, epoch=0) for given in (copies, small)
    )
    assert sharp.shape == blurred.shape
    assert sharp.std() > 1.2 * blurred.std()


def test_sizes_in_training_and_of_copies() -> None:
    assert copy_size(AugmentConfig(), 224) == 280  # 268, in quarters
    sizes = {copy_size(AugmentConfig(min_area=0.3 + k / 1000), 193) for k in range(700)}
    assert sizes == {193 + 48 * k for k in range(1, 5)}  # that trials share
    assert copy_size(AugmentConfig(enabled=False, image_size=96), 224) == 224
    assert train_size(AugmentConfig(image_size=160), 224) == 160
    assert copy_size(AugmentConfig(image_size=160, min_area=1), 224) == 160
