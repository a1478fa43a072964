import pytest

from lit_robust import corruptions
from lit_robust.corruptions import CORRUPTIONS, GROUPS, SEVERITIES

OF_THE_TABLE = {
    "noise": ["gaussian_noise", "shot_noise", "speckle_noise", "impulse_noise"],
    "weather": ["snow", "fog", "frost", "brightness"],
    "blur": ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur"],
    "digital": ["contrast", "elastic_transform", "pixelate", "spatter"],
}


def test_the_table_of_the_dissertation_has_16_corruptions_in_4_groups():
    assert list(OF_THE_TABLE) == list(GROUPS)
    for group, names in OF_THE_TABLE.items():
        assert [n for n, c in CORRUPTIONS.items() if c.group == group and not c.extra] == names
    extra = {name: c.group for name, c in CORRUPTIONS.items() if c.extra}
    assert extra == {"glass_blur": "blur", "saturate": "digital", "jpeg_compression": "digital"}
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_a_function_of_its_name(name):
    assert CORRUPTIONS[name].function is getattr(corruptions, name)
    assert CORRUPTIONS[name].function.__name__ == name
    assert CORRUPTIONS[name].function.__doc__


def test_the_mapping_cannot_be_changed():
    with pytest.raises(TypeError):
        CORRUPTIONS["fog"] = CORRUPTIONS["snow"]
