import json
import shlex
import shutil
import stat
import subprocess

import pytest
import torch
from helpers.adapters import logits_through_peft, peft_adapter
from helpers.cards import TRAINED, write
from helpers.families import hand_written
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.family import Family, Route, Routes, family_hash, is_family, read_family
from adaptermix.adapters.family_files import serving, write_family
from adaptermix.adapters.format import CONFIG_KEY
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.writing import copy_adapter
from adaptermix.cli.main import program
from adaptermix.errors import ArtifactError
from adaptermix.settings.reports import InspectSettings

ROUTES = """\
# by hand
default = "task"

[routes.cy]
adapter = "align"

[routes."en-de"]
adapter = "task"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_dir):
    return hand_written(model_dir, tmp_path_factory.mktemp("made") / "family", ROUTES)


@pytest.fixture
def family(made, tmp_path):
    return shutil.copytree(made, tmp_path / "family")


def test_a_family_written_by_hand_is_read(family):
    read = read_family(family)
    assert list(read.adapters) == ["task", "align"]
    assert read.adapter_for("cy").path == family / "align"
    assert read.adapter_for("en-de") is read.adapter_for("sw") is read.default
    assert read.notes_on(["cy", "sw"]) == [f"{family} has no route for sw; using the default, task"]
    assert read.notes_on(["cy"]) == []
    assert is_family(family)
    assert not is_family(family / "task")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('"align"', '"algin"', 5, "the route of cy: no adapter 'algin' in"),
        ('default = "task"', 'default = "no"', 2, "the default: no adapter 'no' in"),
        ('adapter = "align"', "", 4, "routes.cy.adapter: is missing"),
        ('adapter = "align"', "adapter = 3", 5, "routes.cy.adapter: expected text"),
        ('adapter = "align"', 'adapter = ""', 5, "must be the name of a folder in"),
        ('adapter = "align"', 'adapter = "../task"', 5, "not '../task'"),
        ('adapter = "align"', 'adapter = "align"\np = "x"', 6, "routes.cy.p: must be a number"),
        ('adapter = "align"', 'adapter = "align"\nq = 1', 6, "unknown key 'routes.cy.q'"),
        ('adapter = "task"', 'adapter = "none"', 8, "the route of en-de: no adapter 'none'"),
        ('default = "task"', 'defualt = "task"', 2, "unknown key 'defualt'"),
        ("[routes.cy]", "[routes.cy", 4, "not valid TOML"),
        (ROUTES, 'default = "task"\nroutes = 3\n', 2, "routes: expected a table"),
        (ROUTES, 'default = "task"\n[routes]\ncy = 3\n', 3, "routes.cy: expected a table"),
        (ROUTES, 'default = "task"\nroutes = {}\n', 1, "no routes"),
        (ROUTES, '\nbase = "x/other"\n' + ROUTES, 2, "base is x/other, but"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(family, old, new, line, message):
    file = family / "routes.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    done = CliRunner().invoke(program(), ["inspect", str(family)])
    error = done.exception
    assert isinstance(error, ArtifactError)
    assert error.exit_code == 5
    assert f"{file}:{line}: " in error.message
    assert message in error.message
    assert "\n" not in error.message + (error.hint or "")


def test_adapters_of_different_bases_are_no_family(family):
    config = family / "align" / "adapter_config.json"
    content = json.loads(config.read_text()) | {"base_model_name_or_path": "somebody/other"}
    config.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"align was trained on somebody/other, but .*task on"):
        read_family(family)


def test_a_family_is_no_adapter(family):
    with pytest.raises(ArtifactError, match="a family of adapters") as refused:
        read_adapter(family)
    assert "for example" in refused.value.hint


def test_the_hash_is_of_what_a_family_does(family, model_dir):
    file = family / "routes.toml"
    first = family_hash(read_family(family))
    file.write_text(file.read_text().replace("# by hand", "# by mouth"))
    assert family_hash(read_family(family)) == first
    (family / "align").rename(family / "renamed")
    file.write_text(file.read_text().replace('"align"', '"renamed"'))
    assert family_hash(read_family(family)) == first
    text = file.read_text()
    for key in ("adapter", "default"):
        assert text.count(f'{key} = "task"') == 1
        file.write_text(text.replace(f'{key} = "task"', f'{key} = "renamed"'))
        assert family_hash(read_family(family)) != first, key
    file.write_text(text)
    peft_adapter(model_dir, family / "task", seed=9)
    assert family_hash(read_family(family)) != first


def test_routes_are_written_as_they_are_read(family):
    routes = Routes(
        "task",
        {
            "cy": Route("align", 200, 0.4, "align", 0.5, 0.1, 0.05, 0.15, 0.001, 0.002),
            'odd "name"': Route("task"),
        },
        task="massive",
        metric="slot_f1",
    )
    (family / "routes.toml").write_text(routes.as_toml())
    assert read_family(family).content == routes
    table = routes.table("routes", "")
    assert [str(cell) for cell in table.rows[0]] == [
        *("cy", "align", "200", "40.0", "50.0", "+10.0 [+5.0, +15.0]", "0.0020"),
    ]


def test_inspect_lists_routes_and_adapters(family):
    report = inspect([family], InspectSettings())
    assert [adapter.path for adapter in report.adapters] == [
        str(family / name) for name in ("task", "align")
    ]
    assert report.as_record()["routes"][str(family)]["routes"]["cy"]["adapter"] == "align"
    table = report.view().shown[0]
    assert table.title == f"{family}: 2 adapters"
    assert [str(row[0]) for row in table.rows if row] == ["cy", "en-de", "others"]
    alone = inspect([family / "task"], InspectSettings())
    assert "routes" not in alone.as_record()


@pytest.mark.parametrize("kind", ["folder", "file", "bare"])
def test_a_copy_is_the_adapter(tmp_path, model_dir, kind):
    """Of a file whose config is elsewhere, the tensors are the same."""
    if kind == "file":
        source, adapter = tmp_path / "task.safetensors", None
        write(source, TRAINED)
    else:
        source = tmp_path / "task"
        peft_adapter(model_dir, source)
    if kind == "bare":
        shutil.move(source / "adapter_model.safetensors", tmp_path / "bare.safetensors")
        adapter = read_adapter(tmp_path / "bare.safetensors", rank=4, alpha=8)
    else:
        adapter = read_adapter(source)
    copy = tmp_path / "copy"
    copy_adapter(adapter, copy)
    copied = read_adapter(copy)
    for module, update in adapter.updates():
        assert (update.a == copied.update(module).a).all()
        assert (update.b == copied.update(module).b).all()
        assert update.scaling == copied.update(module).scaling
    assert copied.modules == adapter.modules
    if kind != "bare":
        assert adapter_hash(copied) == adapter_hash(adapter)
        bytes_of = (copy / "adapter_model.safetensors").read_bytes()
        assert bytes_of == adapter.weights_path.read_bytes()
        assert copied.record == adapter.record
    if kind != "file":  # whose base is made up
        assert logits_through_peft(model_dir, copy).isfinite().all()


@pytest.mark.parametrize("kind", ["header", "default", "wrapper", "wrapped target"])
def test_a_copy_has_what_peft_reads(tmp_path, model_dir, kind):
    source = tmp_path / "task"
    peft_adapter(model_dir, source)
    expected = logits_through_peft(model_dir, source)
    weights, config = source / "adapter_model.safetensors", source / "adapter_config.json"
    content = json.loads(config.read_text())
    tensors, header = load_file(weights), {"format": "pt"}
    if kind == "header":  # and no config beside the file
        header[CONFIG_KEY] = json.dumps(content)
        config.unlink()
    elif kind == "default":
        tensors = {name.replace(".weight", ".default.weight"): t for name, t in tensors.items()}
    elif kind == "wrapped target":
        content["target_modules"] = [f"_orig_mod.{name}" for name in content["target_modules"]]
        config.write_text(json.dumps(content))
    elif kind == "wrapper":
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, weights, header)
    adapter = read_adapter(weights if kind == "header" else source)
    copy_adapter(adapter, tmp_path / "copy")
    assert torch.equal(logits_through_peft(model_dir, tmp_path / "copy"), expected)


AWKWARD = 'a b\'s $(rm -rf) "model"'


def test_the_script_serves_each_language_whatever_the_names(tmp_path, monkeypatch):
    """Run by a shell from anywhere, it starts vLLM in its own folder with these words."""
    base = tmp_path / AWKWARD
    base.mkdir()
    folder = tmp_path / "it's = mine, $HOME"
    folder.mkdir()
    routes = Routes("task", {"en": Route("task"), "zh-TW": Route("align-1_0.2")})
    write_family(folder, folder.name, routes, serving(str(base), routes, 16))
    script = folder / "serve.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    programs = tmp_path / "bin"
    programs.mkdir()
    seen = tmp_path / "seen.json"
    fake = programs / "vllm"
    fake.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        f"json.dump([os.getcwd(), *sys.argv[1:]], open({str(seen)!r}, 'w'))\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin", prepend=":")
    subprocess.run([script, "--port", "8001"], check=True, cwd="/")
    assert json.loads(seen.read_text()) == [
        str(folder),
        *("serve", str(base), "--enable-lora", "--max-loras", "2", "--max-lora-rank", "16"),
        *("--lora-modules", "en=task", "zh-TW=align-1_0.2", "--port", "8001"),
    ]
    assert shlex.split("".join(script.read_text().partition("exec ")[2]))[1] == "serve"


def test_a_model_on_the_hub_is_served_by_its_name():
    routes = Routes("task", {"en": Route("task")})
    command = serving("owner/model", routes, 8, ["--revision", "v1"])
    assert command[:5] == ["vllm", "serve", "owner/model", "--revision", "v1"]


def test_the_card_names_no_path_and_every_route(tmp_path):
    routes = Routes(
        "task",
        {"en": Route("task"), "cy": Route("align", 200, 0.4, "align", 0.5, 0.1, 0, 0.2, 0.01)},
        base="/home/somebody/llama",
        task="/home/somebody/private/intent.toml",
        prefer="simpler",
    )
    write_family(tmp_path, "family", routes, ["vllm"])
    card = (tmp_path / "README.md").read_text()
    assert "/home/somebody" not in card
    assert "one per language: task for en; align for cy" in card
    assert "| cy | **align** | 200 |" in card
    assert "language:\n- en\n- cy\n" in card


@pytest.mark.parametrize(("count", "slots"), [(1, 1), (8, 8), (9, 8), (20, 8)])
def test_a_batch_has_room_for_every_language_up_to_eight(count, slots):
    langs = [f"{chr(97 + at)}x" for at in range(count)]
    command = serving("o/m", Routes("task", {lang: Route("task") for lang in langs}), 16)
    assert command[command.index("--max-loras") + 1] == str(slots)
    assert command[command.index("--lora-modules") + 1 :] == [f"{lang}=task" for lang in langs]


@pytest.mark.parametrize(
    ("prefer", "rule"),
    [
        ("simpler", "gain over the task adapter is significant"),
        ("best", "highest score"),
        (None, "by hand"),
    ],
)
def test_a_card_says_how_routes_were_chosen_and_what_others_use(tmp_path, prefer, rule):
    routes = Routes("task", {"cy": Route("align"), "zh-TW": Route("align")}, prefer=prefer)
    write_family(tmp_path, "family", routes, ["vllm"])
    card = (tmp_path / "README.md").read_text()
    assert rule in card.partition("chosen on dev data")[2].partition("\n\n")[0]
    assert "Languages without a route use `task`" in card
    assert "\nlanguage:" not in card, "zh-TW is not a code that the Hub knows"


def test_a_base_of_the_same_name_and_other_weights_is_refused(family):
    read = read_family(family)
    routes = Routes("task", read.content.routes, base="o/base", base_fingerprint="f00")
    chosen = Family(family, routes, read.adapters)
    chosen.check_base("another name", "f00")
    with pytest.raises(ArtifactError, match="whose weights differ from those of o/base"):
        chosen.check_base("o/base", "ba5e")
    Family(family, read.content, read.adapters).check_base("o/base", "ba5e")


def test_routes_to_other_adapters_than_the_default_stand_out():
    routes = Routes("task", {"cy": Route("align", p=0.01), "en": Route("task", p_holm=0.5)})
    cy, en, *_ = routes.table("routes", "").rows
    assert (cy[1].look, en[1].look) == ("strong", "")
    assert (str(cy[6]), str(en[6])) == ("-", "0.5000")
