"""The decoders of sparse codes."""

import pytest
import torch

from lit_robust.errors import UserError
from lit_robust.nn.code_decoder import CodeDecoder, ResizingDecoder


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_sizes_are_the_dissertation_s():
    assert parameters(CodeDecoder(500)) == 2_673_103
    assert parameters(ResizingDecoder(1000)) == 2_973_103


@pytest.mark.parametrize(
    ("make", "grid", "maps"),
    [
        (lambda: CodeDecoder(5, (6, 4)), (15, 15), [(6, 32, 32), (4, 34, 34), (3, 36, 36)]),
        (
            lambda: CodeDecoder(5, (6, 4), patch=8, stride=4, in_channels=1),
            (3, 7),
            [(6, 16, 32), (4, 18, 34), (1, 20, 36)],
        ),
        (lambda: ResizingDecoder(5, (6, 4)), (39, 39), [(6, 41, 41), (4, 164, 164), (3, 166, 166)]),
        (lambda: ResizingDecoder(5, (6, 4), image_shape=(3, 24, 32)), (5, 7), [(6, 7, 9), (4, 28, 36), (3, 30, 38)]),
    ],
)
def test_maps_have_the_shapes_of_the_text_and_their_middle_is_the_image(make, grid, maps):
    torch.manual_seed(0)
    decoder, seen = make(), []
    for layer in (decoder.conv1, decoder.conv2, decoder.conv3):
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    images = decoder(3 * torch.randn(2, 5, *grid))
    assert [tuple(each.shape[1:]) for each in seen] == maps
    margin = (maps[-1][1] - images.shape[2]) // 2
    middle = seen[-1][:, :, margin:-margin, margin:-margin]
    assert torch.equal(images, middle.clamp(0, 1))
    assert 0 <= images.min() < images.max() <= 1


def test_images_stop_at_one():
    decoder = CodeDecoder(5, (6, 4))
    torch.nn.init.constant_(decoder.conv3.bias, 3.0)
    assert torch.equal(decoder(torch.zeros(1, 5, 3, 3)).unique(), torch.ones(1))


@pytest.mark.parametrize("widths", [(6,), (6, 0), (6, 4, 2)])
def test_two_widths_are_needed(widths):
    with pytest.raises(UserError, match="two widths"):
        CodeDecoder(5, widths)
