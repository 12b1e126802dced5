"""Files that appear whole or not at all, and safetensors files read and written by hand."""

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, ResourceError
from adaptermix.files import tensors as tensor_files
from adaptermix.files.outputs import check_output, real_path, whole_output, write_json
from adaptermix.files.tensors import DTYPES, TensorFile, TensorSpec, write_tensors

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def tensors(draw):
    """Named tensors of random bytes: any dtype, any shape, sizes of zero and scalars as well."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    found = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        spec = TensorSpec(DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES))
        data = generator.integers(0, 2 if spec.dtype == bool else 256, spec.size, np.uint8)
        found[name] = data.view(spec.dtype).reshape(spec.shape)
    return found


def specs_of(tensors):
    return {name: TensorSpec(t.dtype, t.shape) for name, t in tensors.items()}


def in_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@given(tensors=tensors(), metadata=st.dictionaries(NAMES, st.text(max_size=20), max_size=3))
def test_safetensors_reads_back_what_was_streamed(tmp_path_factory, tensors, metadata):
    metadata = {k: v.encode("utf-8", "ignore").decode() for k, v in metadata.items()}
    path = tmp_path_factory.getbasetemp() / "streamed.safetensors"
    write_tensors(path, specs_of(tensors), tensors.values(), lambda: metadata)
    found = load_file(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert str(found[name].dtype) == f"torch.{tensor.dtype}"
        assert found[name].shape == tensor.shape
        assert in_bytes(found[name]) == list(tensor.tobytes())
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == metadata


def test_tensors_that_are_not_contiguous_are_written_in_order(tmp_path):
    tensor = np.arange(12.0).reshape(3, 4).T
    write_tensors(tmp_path / "x", specs_of({"t": tensor}), [tensor], dict)
    assert np.array_equal(load_file(tmp_path / "x")["t"], tensor)


def test_a_tensor_is_written_before_the_next_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_reserve", lambda file, size: None)
    spec = TensorSpec(np.dtype(np.float32), (100_000,))

    def made():
        for number in range(6):
            if number:
                assert (tmp_path / "x").stat().st_size > (number - 1) * spec.size
            yield np.full(spec.shape, float(number), spec.dtype)

    write_tensors(tmp_path / "x", {str(n): spec for n in range(6)}, made(), dict)
    assert load_file(tmp_path / "x")["5"][0] == 5


def test_metadata_may_grow_while_tensors_are_written(tmp_path):
    answers = iter(["0", "1" * 4000])
    tensor = np.arange(5.0)
    write_tensors(
        tmp_path / "x", specs_of({"t": tensor}), [tensor], lambda: {"record": next(answers)}
    )
    assert np.array_equal(load_file(tmp_path / "x")["t"], tensor)
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == {"record": "1" * 4000}


def test_metadata_that_outgrows_its_room_never_runs_over_the_tensors(tmp_path):
    answers = iter(["", "x" * 6000])
    tensor = np.arange(5.0)
    with pytest.raises(AssertionError, match="metadata grew"), whole_output(tmp_path / "x") as out:
        write_tensors(out, specs_of({"t": tensor}), [tensor], lambda: {"r": next(answers)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tensors", [[], [np.ones(2)] * 2, [np.ones(3)], [np.ones(2, np.float32)]])
def test_other_tensors_than_announced_are_a_bug(tmp_path, tensors):
    specs = {"t": TensorSpec(np.dtype(np.float64), (2,))}
    with pytest.raises(ValueError, match="expected|zip"):
        write_tensors(tmp_path / "x", specs, tensors, dict)


def test_the_header_is_padded_as_the_format_wants(tmp_path):
    write_tensors(tmp_path / "x", specs_of({"t": np.ones(1)}), [np.ones(1)], dict)
    data = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert data[8:9] == b"{"
    assert json.loads(data[8 : 8 + length])["t"]["data_offsets"] == [0, 8]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device on this system")
def test_a_disk_that_fills_up_stops_the_writing_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_reserve", lambda file, size: None)
    made = []

    def tensors():
        for _ in range(9):
            made.append(np.ones(100_000))
            yield made[-1]

    specs = {str(n): TensorSpec(np.dtype(np.float64), (100_000,)) for n in range(9)}
    full = f"{tmp_path}/x: cannot be written: No space left"
    with pytest.raises(ResourceError, match=full), whole_output(tmp_path / "x") as out:
        out.symlink_to("/dev/full")
        write_tensors(out, specs, tensors(), dict)
    assert len(made) < 9
    assert not list(tmp_path.iterdir())


def make(path, kind):
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        path.mkdir()
        (path / "old").touch()
    elif kind == "link to a folder":
        (path.parent / "elsewhere").mkdir()
        (path.parent / "elsewhere" / "kept").touch()
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "broken link":
        path.symlink_to(path.parent / "nowhere")


KINDS = ["nothing", "file", "folder", "link to a folder", "broken link"]


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", ["file", "folder"])
def test_an_output_takes_the_place_of_anything(tmp_path, old, new):
    path = tmp_path / "out"
    make(path, old)
    with whole_output(path) as partial:
        if new == "file":
            partial.write_text("new")
        else:
            partial.mkdir()
            (partial / "new").touch()
    assert (
        path.read_text() == "new" if new == "file" else [p.name for p in path.iterdir()] == ["new"]
    )
    assert not path.is_symlink()
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "elsewhere"}
    if old == "link to a folder":
        assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", KINDS)
def test_after_an_error_everything_is_as_it_was(tmp_path, old, error):
    path = tmp_path / "out"
    make(path, old)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(error), whole_output(path) as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise error
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_a_failed_last_step_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "out"
    make(path, "folder")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"), whole_output(path) as partial:
        partial.mkdir()
    assert (path / "old").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_goes_and_what_a_live_one_has_stays(tmp_path):
    path = tmp_path / "x[1]"
    left = tmp_path / ".x[1].abcd1234.unfinished"
    (left / "x[1]").mkdir(parents=True)
    names = (".x[1].training", ".x1.abcd1234.unfinished", ".x[1].search.abcd1234.unfinished")
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
    with whole_output(path) as first:
        first.mkdir()
        assert not left.exists()
        with whole_output(path) as second:
            second.mkdir()
            assert first.is_dir()
    assert sorted(tmp_path.iterdir()) == sorted([*others, path])


def test_an_output_that_a_killed_process_was_replacing_is_there_again(tmp_path):
    path = tmp_path / "x"
    left = tmp_path / ".x.abcd1234.unfinished"
    (left / "x.replaced").mkdir(parents=True)
    (left / "x.replaced" / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_output(path):
        raise KeyboardInterrupt
    assert [entry.name for entry in path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["replaced", ".lock", ".replaced"])
def test_an_output_may_have_any_name(tmp_path, name):
    for text in ("old", "new"):
        with whole_output(tmp_path / name) as partial:
            partial.mkdir()
            (partial / "file").write_text(text)
    assert (tmp_path / name / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_outputs_appear_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    left = tmp_path / ".x.abcd1234.unfinished"
    left.mkdir()
    with whole_output(tmp_path / "x") as partial:
        partial.touch()
    assert sorted(tmp_path.iterdir()) == [left, tmp_path / "x"]


@pytest.mark.parametrize("old", KINDS[1:])
def test_what_exists_is_refused_without_force(tmp_path, old):
    path = tmp_path / "out"
    make(path, old)
    with pytest.raises(ArtifactError, match="out exists") as caught:
        check_output(path, force=False)
    assert "--force" in caught.value.hint
    check_output(path, force=True)


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.pth", "x.ckpt", "x.gguf"])
def test_names_of_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="as a .safetensors file or as a directory"):
        check_output(tmp_path / name, force=False)


def test_force_never_takes_the_current_folder_nor_one_above(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), Path(".."), tmp_path, tmp_path / "here", Path("/")):
        with pytest.raises(AdaptermixError):
            check_output(path, force=False)
        with pytest.raises(ConfigError, match="contains the current folder"):
            check_output(path, force=True)


def test_force_never_takes_an_input(tmp_path):
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (tmp_path / "link").symlink_to(base)
    inputs = [Path("owner/name"), base]
    for path, words in (
        (base, "is one of the inputs"),
        (tmp_path / "link", "is one of the inputs"),
        (base.parent, "contains the input"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_output(path, True, inputs)
    check_output(base / "new", False, inputs)
    check_output(Path("owner"), False, inputs)


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    """As root, ``-o /dev/null --force`` would make a folder of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        for force in (True, False):
            with pytest.raises(ConfigError, match="a device or a pipe"):
                check_output(path, force)
    assert (tmp_path / "link").is_fifo()


def test_a_mount_point_is_never_replaced(tmp_path, monkeypatch):
    """It cannot be renamed, so the result would be lost."""
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "mounted")
    with pytest.raises(ConfigError, match="a mount point"):
        check_output(tmp_path / "mounted", force=True)
    check_output(tmp_path / "mounted" / "new", force=True)


def test_a_file_is_no_folder_to_write_into(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a folder"):
        check_output(tmp_path / "file" / "new" / "out", force=False)


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "x.json", {"b": Path("p"), "a": "ŵy"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "a": "ŵy",\n  "b": "p"\n}\n'


def test_paths_may_have_bytes_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / name, {"out": name})
    assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == {"out": name}


def test_text_with_a_null_character_is_no_path():
    with pytest.raises(ConfigError, match=r"'a\\x00b' is not a path"):
        real_path(Path("a\0b"))


def test_a_file_is_read_as_the_library_reads_it(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).to(torch.bfloat16),
        "narrow": torch.randn(2, 2).to(torch.float8_e4m3fn),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(7),
    }
    save_file(tensors, tmp_path / "x", {"said": "so"})
    file = TensorFile(tmp_path / "x")
    assert file.metadata == {"said": "so"}
    assert set(file.specs) == set(tensors)
    for name, tensor in tensors.items():
        found = file.tensor(name)
        assert file.specs[name] == (found.dtype, found.shape)
        assert (str(tensor.dtype), tensor.shape) == (f"torch.{found.dtype}", found.shape)
        assert list(found.tobytes()) == in_bytes(tensor)


def test_changing_a_tensor_changes_no_file(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    TensorFile(tmp_path / "x").tensor("a")[:] = 2
    assert (tmp_path / "x").read_bytes() == before


def test_a_file_that_is_replaced_while_it_is_open_is_read_as_it_was(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x")
    file = TensorFile(tmp_path / "x")
    save_file({"a": torch.zeros(3)}, tmp_path / "y")
    (tmp_path / "y").replace(tmp_path / "x")
    assert file.tensor("a").tolist() == [1, 1, 1]


def test_an_odd_header_shifts_nothing(tmp_path):
    """Files of other writers may have headers of any length."""
    values = np.arange(6, dtype=np.float32)
    header = b'{"t":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'
    header = header.ljust(len(header) + (3 - len(header)) % 4)  # the data starts at an odd place
    data = struct.pack("<Q", len(header)) + header + values.tobytes()
    (tmp_path / "x").write_bytes(data)
    assert np.array_equal(load_file(tmp_path / "x")["t"], values)
    assert np.array_equal(TensorFile(tmp_path / "x").tensor("t"), values)


def test_a_place_that_takes_no_files_is_told(tmp_path):
    with pytest.raises(ResourceError, match="proc: cannot be written to"):
        whole_output(Path("/proc/out")).__enter__()


@pytest.mark.parametrize("size", [0, 3, 400_000])
def test_a_file_s_hash_is_that_of_its_bytes(tmp_path, size):
    save_file({"a": torch.arange(size)}, tmp_path / "x")
    file = TensorFile(tmp_path / "x")
    for _ in range(2):
        assert file.hash() == blake3((tmp_path / "x").read_bytes()).hexdigest()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
@pytest.mark.parametrize("reason", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_room_is_asked_for_before_the_first_tensor(tmp_path, monkeypatch, reason):
    made = []

    def answer(file, offset, length):
        assert (offset, made) == (0, [])
        raise OSError(reason, os.strerror(reason))

    def parts():
        made.append(0)
        yield np.ones(2)

    monkeypatch.setattr(os, "posix_fallocate", answer)
    specs = {"x": TensorSpec(np.dtype(np.float64), (2,))}
    if reason == errno.ENOSPC:
        with pytest.raises(OSError, match=os.strerror(reason)):
            write_tensors(tmp_path / "x", specs, parts(), dict)
        assert not made
    else:  # a file system that cannot: written all the same
        write_tensors(tmp_path / "x", specs, parts(), dict)
        assert load_file(tmp_path / "x")["x"].tolist() == [1, 1]
