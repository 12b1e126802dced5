"""Files that appear whole or not at all, and safetensors files read and written by hand."""

import errno
import json
import math
import os
import struct
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, ResourceError
from adaptermix.files import tensors as tensor_files
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.files.tensors import DTYPE_NAMES, TensorFile, TensorSpec, write_tensors

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def tensors(draw):
    """Named tensors of random bytes: any dtype, any shape, sizes of zero and scalars as well."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    found = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        spec = TensorSpec(draw(st.sampled_from(sorted(DTYPE_NAMES, key=str))), draw(SHAPES))
        data = torch.randint(0, 256, (spec.size,), dtype=torch.uint8, generator=generator)
        if spec.dtype == torch.bool:
            data %= 2
        if spec.size:
            found[name] = data.view(spec.dtype).reshape(spec.shape)
        else:
            found[name] = torch.empty(spec.shape, dtype=spec.dtype)
    return found


def specs_of(tensors):
    return {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


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
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert in_bytes(found[name]) == in_bytes(tensor)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == metadata


def test_tensors_that_are_not_contiguous_are_written_in_order(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4).mT
    write_tensors(tmp_path / "x", specs_of({"t": tensor}), [tensor], dict)
    assert torch.equal(load_file(tmp_path / "x")["t"], tensor)


def test_rows_from_several_places_are_written_as_one_tensor(tmp_path):
    whole = torch.arange(20.0).reshape(5, 4)
    parts = (whole[:2], whole[2:3], whole[3:3], whole[3:])
    write_tensors(tmp_path / "x", specs_of({"t": whole}), [parts], dict)
    assert torch.equal(load_file(tmp_path / "x")["t"], whole)
    with pytest.raises(ValueError, match="expected"):
        write_tensors(tmp_path / "y", specs_of({"t": whole}), [parts[:2]], dict)


def test_rows_are_taken_from_a_file_as_bytes(tmp_path):
    whole = torch.arange(20.0).reshape(5, 4)
    write_tensors(tmp_path / "x", specs_of({"t": whole[:3]}), [whole[:3]], dict)
    parts = (TensorFile(tmp_path / "x").stored("t", whole.dtype), whole[3:])
    assert isinstance(parts[0], memoryview)
    write_tensors(tmp_path / "y", specs_of({"t": whole}), [parts], dict)
    assert torch.equal(load_file(tmp_path / "y")["t"], whole)
    with pytest.raises(ValueError, match="80 bytes, got 48"):
        write_tensors(tmp_path / "z", specs_of({"t": whole}), [parts[:1]], dict)


def test_rows_of_another_type_are_made_of_those_in_a_file(tmp_path):
    whole = torch.arange(20.0).reshape(5, 4)
    write_tensors(tmp_path / "x", specs_of({"t": whole}), [whole], dict)
    assert torch.equal(TensorFile(tmp_path / "x").stored("t", torch.float16), whole.half())


def test_a_batch_is_written_before_the_next_is_made(tmp_path, monkeypatch):
    spec = TensorSpec(torch.float32, (1000,))
    monkeypatch.setattr(tensor_files, "_BATCH", spec.size)

    def made():
        for number in range(6):
            if number:
                written = (tmp_path / "x").stat().st_size - header
                assert written >= number * spec.size
            yield torch.full((1000,), float(number))

    header = 4096  # at least
    write_tensors(tmp_path / "x", {str(n): spec for n in range(6)}, made(), dict)
    assert load_file(tmp_path / "x")["5"][0] == 5


def test_metadata_may_grow_while_tensors_are_written(tmp_path):
    answers = iter(["0", "1" * 4000])
    tensor = torch.arange(5.0)
    write_tensors(
        tmp_path / "x", specs_of({"t": tensor}), [tensor], lambda: {"record": next(answers)}
    )
    assert torch.equal(load_file(tmp_path / "x")["t"], tensor)
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == {"record": "1" * 4000}


def test_metadata_that_outgrows_its_room_never_runs_over_the_tensors(tmp_path):
    answers = iter(["", "x" * 6000])
    tensor = torch.arange(5.0)
    with pytest.raises(AssertionError, match="metadata grew"), whole_output(tmp_path / "x") as out:
        write_tensors(out, specs_of({"t": tensor}), [tensor], lambda: {"r": next(answers)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tensors",
    [[], [torch.ones(2)] * 2, [torch.ones(3)], [torch.ones(2, dtype=torch.float64)]],
)
def test_other_tensors_than_announced_are_a_bug(tmp_path, tensors):
    specs = {"t": TensorSpec(torch.float32, (2,))}
    with pytest.raises(ValueError, match="expected|zip"):
        write_tensors(tmp_path / "x", specs, tensors, dict)


def test_the_header_is_padded_as_the_format_wants(tmp_path):
    write_tensors(tmp_path / "x", specs_of({"t": torch.ones(1)}), [torch.ones(1)], dict)
    data = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert data[8:9] == b"{"
    assert json.loads(data[8 : 8 + length])["t"]["data_offsets"] == [0, 4]


def test_a_full_disk_stops_the_writing_and_leaves_nothing(tmp_path, monkeypatch):
    """A fake of the one call that meets the disk: it takes two tensors, then it is full."""
    calls = []

    def full(file, tensors):
        calls.append(tensors)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_files, "_write", full)
    monkeypatch.setattr(tensor_files, "_BATCH", 8)
    specs = {str(n): TensorSpec(torch.float32, (2,)) for n in range(9)}
    with pytest.raises(OSError, match="No space left"), whole_output(tmp_path / "x") as out:
        write_tensors(out, specs, (torch.ones(2) for _ in range(9)), dict)
    assert len(calls) < 5
    assert not list(tmp_path.iterdir())


def test_a_system_that_takes_a_part_of_the_bytes_is_asked_again(tmp_path, monkeypatch):
    """Linux takes 2 GB in one call at most; here it is 10 bytes, the middle of a number."""
    taken = []

    def writev(file, buffers):
        taken.append(os.write(file, b"".join(buffers)[:10]))
        return taken[-1]

    monkeypatch.setattr(os, "writev", writev)
    tensors = {"a": torch.arange(6.0).view(3, 2), "b": torch.arange(5).bfloat16()}
    write_tensors(tmp_path / "x", specs_of(tensors), tensors.values(), dict)
    assert taken == [10, 10, 10, 4]
    written = load_file(tmp_path / "x")
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("first", [0.0, -0.0, 1.0, -2.0, 1e-7, 256.0])
def test_a_tensor_that_starts_with_zero(tmp_path, dtype, first):
    tensors = {"b": torch.ones(1, dtype=dtype), "t": torch.tensor([[first, 3], [0, 0]]).to(dtype)}
    save_file(tensors, tmp_path / "x")
    found = TensorFile(tmp_path / "x").starts_with_zero("t")
    assert found == (tensors["t"][0, 0].item() == 0)


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
    (left / "replaced").mkdir(parents=True)
    (left / "replaced" / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_output(path):
        raise KeyboardInterrupt
    assert [entry.name for entry in path.iterdir()] == ["old"]


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
        with pytest.raises(ConfigError, match="holds the folder you are in"):
            check_output(path, force=True)


def test_a_file_is_no_folder_to_write_into(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is no folder"):
        check_output(tmp_path / "file" / "new" / "out", force=False)


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "x.json", {"b": Path("p"), "a": "ŵy"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "a": "ŵy",\n  "b": "p"\n}\n'


def test_a_file_is_read_as_the_library_reads_it(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).to(torch.bfloat16),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(7),
    }
    save_file(tensors, tmp_path / "x", {"said": "so"})
    file = TensorFile(tmp_path / "x")
    assert file.metadata == {"said": "so"}
    assert set(file.specs) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(file.tensor(name), tensor)
        assert file.specs[name] == TensorSpec(tensor.dtype, tuple(tensor.shape))


def test_an_odd_header_shifts_nothing(tmp_path):
    """Files of other writers may have headers of any length."""
    values = torch.arange(6, dtype=torch.float32)
    header = b'{"t":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'
    header = header.ljust(len(header) + (3 - len(header)) % 4)  # the data starts at an odd place
    data = struct.pack("<Q", len(header)) + header + values.numpy().tobytes()
    (tmp_path / "x").write_bytes(data)
    assert torch.equal(load_file(tmp_path / "x")["t"], values)
    assert torch.equal(TensorFile(tmp_path / "x").tensor("t"), values)


@given(data=st.data(), odd=st.integers(0, 3), between=st.sampled_from([(), (3,), (2, 2), (1,)]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_of_one_shape_are_stacked_wherever_they_lie(
    tmp_path_factory, dtype, data, odd, between
):
    """At equal distances or not, in any order, at odd places, with other tensors between them."""
    path = tmp_path_factory.getbasetemp() / "stacked.safetensors"
    shape = data.draw(st.sampled_from([(2, 4), (3, 2), (5,), (0, 2), ()]))
    tensors = {}
    for at in range(5):
        tensors[f"t{at}"] = torch.randn(shape).to(dtype)
        if data.draw(st.booleans()):
            tensors[f"other{at}"] = torch.ones(between, dtype=torch.uint8)
    write_tensors(path, specs_of(tensors), tensors.values(), lambda: {"padding": "x" * odd})
    names = data.draw(st.lists(st.sampled_from(["t0", "t1", "t2", "t3", "t4"]), min_size=1))
    stacked = TensorFile(path).stack(names)
    assert torch.equal(stacked, torch.stack([tensors[name] for name in names]))


def test_layers_at_equal_distances_are_stacked_without_a_copy(tmp_path):
    tensors = {f"{layer}.{side}": torch.randn(2, 4) for layer in range(4) for side in "ab"}
    save_file(tensors, tmp_path / "x")
    file = TensorFile(tmp_path / "x")
    stacked = file.stack([f"{layer}.b" for layer in range(4)])
    assert stacked[2].data_ptr() == file.tensor("2.b").data_ptr()


def test_a_place_that_takes_no_files_is_told(tmp_path):
    with pytest.raises(ResourceError, match="proc: cannot be written to"):
        whole_output(Path("/proc/out")).__enter__()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(seed=st.integers(0, 999), odd=st.sampled_from([None, math.nan, -math.inf, -123.0, 0.0]))
def test_a_scan_hashes_the_file_and_finds_its_largest_number(tmp_path_factory, dtype, seed, odd):
    path = tmp_path_factory.mktemp("scan") / "x"
    torch.manual_seed(seed)
    tensors = {"a": torch.randn(3, 5).to(dtype), "b": -torch.rand(7).to(dtype)}
    if odd is not None:
        tensors["b"][seed % 7] = odd
    save_file(tensors, path)
    digest, largest = TensorFile(path).scan()
    assert digest == blake3(path.read_bytes()).hexdigest()
    numbers = [abs(number) for tensor in tensors.values() for number in tensor.flatten().tolist()]
    has_nan = any(math.isnan(number) for number in numbers)
    assert math.isnan(largest) if has_nan else largest == max(numbers)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"n": torch.arange(3)},
        {"f": torch.ones(2, dtype=torch.float32), "h": torch.ones(2, dtype=torch.float16)},
    ],
)
def test_a_scan_knows_no_largest_number_of_other_or_mixed_types(tmp_path, tensors):
    save_file(tensors, tmp_path / "x")
    digest, largest = TensorFile(tmp_path / "x").scan()
    assert digest == blake3((tmp_path / "x").read_bytes()).hexdigest()
    assert math.isnan(largest)


def test_a_scan_looks_at_every_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("adaptermix.files.tensors._CHUNK", 16)
    values = torch.zeros(100)
    values[57] = -9.0
    save_file({"a": values}, tmp_path / "x")
    digest, largest = TensorFile(tmp_path / "x").scan()
    assert (digest, largest) == (blake3((tmp_path / "x").read_bytes()).hexdigest(), 9.0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
@pytest.mark.parametrize("reason", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_room_is_asked_for_before_the_first_tensor(tmp_path, monkeypatch, reason):
    made = []

    def answer(file, offset, length):
        assert (offset, made) == (0, [])
        raise OSError(reason, os.strerror(reason))

    def parts():
        made.append(0)
        yield torch.ones(2)

    monkeypatch.setattr(tensor_files.os, "posix_fallocate", answer)
    specs = {"x": TensorSpec(torch.float32, (2,))}
    if reason == errno.ENOSPC:
        with pytest.raises(OSError, match=os.strerror(reason)):
            write_tensors(tmp_path / "x", specs, parts(), dict)
        assert not made
    else:  # a file system that cannot: written all the same
        write_tensors(tmp_path / "x", specs, parts(), dict)
        assert load_file(tmp_path / "x")["x"].tolist() == [1, 1]
