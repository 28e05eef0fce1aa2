"""The file of a detector: whole, read without unpickling, and refused in one line when damaged."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moleflow.detection.detector_file import read_detector, write_detector
from moleflow.errors import Damaged, InvalidInput
from moleflow.settings.config import TrialConfig


def test_reading_a_file_gives_what_was_written(trained):
    again = read_detector(trained.file)
    assert again.header == trained.detector.header
    assert again.config() == trained.config
    for a, b in zip(again.states, trained.detector.states, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    for a, b in zip(again.gaussians, trained.detector.gaussians, strict=True):
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.precision, b.precision)


def test_equal_detectors_give_equal_bytes(trained, tmp_path):
    write_detector(tmp_path / "folder" / "again.safetensors", trained.detector)
    assert (tmp_path / "folder" / "again.safetensors").read_bytes() == trained.file.read_bytes()


@pytest.mark.parametrize("place", [-1, -2000])
def test_a_changed_byte_is_found(place, trained, tmp_path):
    content = bytearray(trained.file.read_bytes())
    content[place] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(content)
    with pytest.raises(Damaged, match="its tensors do not match their digests"):
        read_detector(tmp_path / "changed.safetensors")


def other_files(trained, tmp_path):
    """Yield files that are no detector."""
    content = trained.file.read_bytes()
    names = {"empty": b"", "text": b"no detector at all", "cut": content[:-10], "start": content[:100]}
    names["pickle"] = pickle.dumps({"a": 1})
    names["huge header"] = (2**63).to_bytes(8, "little") + b"{}"
    for name, of in names.items():
        (tmp_path / name).write_bytes(of)
        yield tmp_path / name
    save_file({"a": torch.zeros(1)}, tmp_path / "weights", {"other": "1"})
    yield tmp_path / "weights"


def test_other_files_are_refused_in_one_line(trained, tmp_path):
    seen = 0
    for path in other_files(trained, tmp_path):
        with pytest.raises(InvalidInput, match="is no detector of this program") as error:
            read_detector(path)
        assert "\n" not in str(error.value)
        seen += 1
    assert seen == 7


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(InvalidInput, match=r"none: cannot be read \(No such file or directory\); give a file that"):
        read_detector(tmp_path / "none")


def test_a_newer_format_is_refused(trained, tmp_path):
    content = trained.file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    own = json.loads(header["__metadata__"]["moleflow"]) | {"format": "moleflow detector 2"}
    header["__metadata__"]["moleflow"] = json.dumps(own)
    changed = json.dumps(header).encode()
    (tmp_path / "newer").write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(InvalidInput, match="is no detector of this program"):
        read_detector(tmp_path / "newer")


def test_a_configuration_without_later_knobs_has_their_earlier_values(trained):
    stored = trained.detector
    config = {name: of for name, of in stored.header.config.items() if name != "mixer"}
    config["flow"] = {name: of for name, of in config["flow"].items() if name != "subnets"}
    earlier = type(stored)(stored.header.model_copy(update={"config": config}), stored.states, stored.gaussians)
    assert earlier.config() == trained.config
    assert isinstance(earlier.config(), TrialConfig)


def test_a_configuration_of_another_program_is_one_line(trained):
    stored = trained.detector
    config = stored.header.config | {"colour": "red"}
    with pytest.raises(InvalidInput, match="configuration is none of this program"):
        type(stored)(stored.header.model_copy(update={"config": config}), stored.states, stored.gaussians).config()
