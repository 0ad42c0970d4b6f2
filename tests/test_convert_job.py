"""`sgdm convert`: whole files from one format and convention to another."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sgdm
from sgdm.cli import app
from sgdm.convert.formats import FORMATS, get_format
from sgdm.convert.job import Job, convert_file
from sgdm.convert.matching import NameMap
from sgdm.errors import FileError, InvalidUseError, InvalidValueError

KERAS = Path(__file__).parent / "conformance" / "files" / "keras-training.keras"


def model() -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def train(network, optimizer, steps=4) -> list[float]:
    losses = []
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(5, 3, generator=generator)
        loss = network(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    train(network, optimizer)
    path = tmp_path / "torch.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


def job(source: Path, target: Path, old: str, new: str, **options) -> Job:
    return Job(source=source, target=target, source_format=old, target_format=new, **options)


def test_there_and_back_training_goes_on_as_if_nothing_had_happened(checkpoint, tmp_path):
    middle, end = tmp_path / "keras.safetensors", tmp_path / "end.pt"
    made = convert_file(job(checkpoint, middle, "torch", "safetensors", convention="keras"))
    assert (made.source, made.target) == ("torch", "keras3")
    assert made.map is not None
    assert made.map.identical == "while lr is constant"
    convert_file(job(middle, end, "safetensors", "torch"))
    losses = []
    for path in (checkpoint, end):
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.1)
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert optimizer.param_groups[0]["nesterov"] is True
        losses.append(train(network, optimizer))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_converted_state_is_loaded_by_its_convention(checkpoint, tmp_path):
    end = tmp_path / "end.pt"
    convert_file(job(checkpoint, end, "torch", "torch", convention="keras"))
    network = model()
    saved = torch.load(end, weights_only=True)
    network.load_state_dict(saved["model"])
    optimizer = sgdm.SGD(network.parameters(), lr=0.1, momentum=0.9, convention="keras")
    optimizer.load_state_dict(saved["optimizer"])
    plain = model()
    other = torch.optim.SGD(plain.parameters(), lr=0.1)
    kept = torch.load(checkpoint, weights_only=True)
    plain.load_state_dict(kept["model"])
    other.load_state_dict(kept["optimizer"])
    assert train(network, optimizer) == pytest.approx(train(plain, other), rel=1e-6)


def test_a_table_of_what_was_done(checkpoint, tmp_path):
    made = convert_file(
        job(checkpoint, tmp_path / "x.safetensors", "torch", "safetensors", convention="caffe")
    )
    assert [row.name for row in made.rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    saved = torch.load(checkpoint, weights_only=True)
    for index, row in enumerate(made.rows):
        b = saved["optimizer"]["state"][index]["momentum_buffer"]
        assert row.shape == tuple(b.shape)
        assert row.before == pytest.approx(b.norm().item())
        assert row.after == pytest.approx(0.1 * b.norm().item())


def test_progress_counts_the_buffers(checkpoint, tmp_path):
    seen = []
    target = tmp_path / "x.safetensors"
    convert_file(job(checkpoint, target, "torch", "safetensors"), progress=seen.append)
    assert seen == [4, 4, 4, 4]


def test_a_dry_run_writes_nothing_and_finds_what_is_wrong(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    made = convert_file(job(checkpoint, target, "torch", "safetensors", dry_run=True))
    assert all(row.after is not None for row in made.rows)
    assert not target.exists()
    broken = bytearray(checkpoint.read_bytes())
    place = broken.index(b"data/0") + 200
    broken[place] ^= 1
    checkpoint.write_bytes(bytes(broken))
    with pytest.raises(FileError, match=str(checkpoint)):
        convert_file(job(checkpoint, target, "torch", "safetensors", dry_run=True))


def test_names_are_mapped_and_written_in_the_templates_order(checkpoint, tmp_path):
    names = NameMap({"/(\\d)\\.(weight|bias)/": "layer\\1.\\2"})
    middle = tmp_path / "named.safetensors"
    convert_file(job(checkpoint, middle, "torch", "safetensors", names=names))
    template = tmp_path / "template.pt"
    torch.save(model().state_dict(), template)
    back = NameMap({"layer*.weight": "*.weight", "layer*.bias": "*.bias"})
    end = tmp_path / "end.pt"
    made = convert_file(job(middle, end, "safetensors", "torch", names=back, template=template))
    assert [row.target for row in made.rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    kept, saved = (torch.load(p, weights_only=True) for p in (checkpoint, end))
    for index, state in kept["optimizer"]["state"].items():
        written = saved["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(state["momentum_buffer"], written)


def test_what_has_no_counterpart_is_an_error_unless_it_is_allowed(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    template = tmp_path / "template.pt"
    other = model().state_dict()
    other["extra"] = torch.zeros(3)
    del other["0.bias"]
    torch.save(other, template)
    target = tmp_path / "x.pt"
    given = job(checkpoint, target, "torch", "torch", template=template)
    with pytest.raises(FileError) as caught:
        convert_file(given)
    assert str(caught.value) == (
        f"{checkpoint}: without a counterpart: 0.bias (as 0.bias) of the source, extra of the "
        "template; give a mapping file, or allow it"
    )
    assert not target.exists()


def test_a_state_that_cannot_be_converted_leaves_the_target_as_it_was(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_text("as it was")
    with pytest.raises(InvalidUseError, match="state cannot be converted from 'torch' to 'ema'"):
        convert_file(job(checkpoint, target, "torch", "safetensors", convention="ema"))
    assert target.read_text() == "as it was"
    made = convert_file(
        job(checkpoint, target, "torch", "safetensors", convention="qhm", port=True)
    )
    assert made.map is not None
    assert made.map.ported


def test_numbers_that_are_needed_are_asked_for(checkpoint, tmp_path):
    saved = torch.load(checkpoint, weights_only=True)
    with pytest.raises(InvalidValueError, match="lr must be a finite number >= 0"):
        convert_file(
            job(
                checkpoint,
                tmp_path / "x.pt",
                "torch",
                "torch",
                convention="keras",
                hyperparameters={"lr": -1.0},
            )
        )
    bare = tmp_path / "bare.pt"
    torch.save(saved["model"], bare)
    made = convert_file(job(bare, tmp_path / "y.safetensors", "torch", "safetensors"))
    assert made.map is None


def test_groups_that_differ_are_not_converted_by_the_first_ones_numbers(tmp_path):
    network = model()
    groups = [{"params": network[0].parameters()}, {"params": network[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    train(network, optimizer)
    path, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    with pytest.raises(FileError, match="its parameter groups differ in lr, and a file is conver"):
        convert_file(job(path, target, "torch", "safetensors", convention="keras"))
    assert not target.exists()
    made = convert_file(job(path, target, "torch", "safetensors"))
    assert "groups differ in lr: the first's is taken" in made.remarks


def test_the_kind_of_decay_is_written_where_it_is_not_the_conventions_own(tmp_path):
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(network, optimizer)
    path, middle, end = tmp_path / "a.pt", tmp_path / "b.safetensors", tmp_path / "c.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    convert_file(job(path, middle, "torch", "safetensors", convention="keras"))
    convert_file(job(middle, end, "safetensors", "torch", convention="keras"))
    (group,) = torch.load(end, weights_only=True)["optimizer"]["param_groups"]
    assert (group["convention"], group["weight_decay_mode"]) == ("keras3", "coupled")
    again = model()
    loaded = sgdm.SGD(again.parameters(), convention="keras")
    saved = torch.load(end, weights_only=True)
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)


def test_formats_are_named():
    with pytest.raises(InvalidValueError, match=r"format must be one of torch, .*, got 'onnx'"):
        get_format("onnx")
    for name, found in FORMATS.items():
        module = found.load()
        assert callable(module.read), name
        assert callable(module.write), name
        assert found.convention is None or sgdm.get_convention(found.convention).runs


def test_a_format_that_needs_a_template_asks_for_it(checkpoint, tmp_path):
    with pytest.raises(InvalidValueError, match="template must be a file of the same model for"):
        convert_file(job(checkpoint, tmp_path / "x.keras", "torch", "keras"))


def test_a_format_has_the_convention_it_has(checkpoint, tmp_path):
    with pytest.raises(InvalidValueError, match="convention must be 'keras3', which the format"):
        convert_file(
            job(
                checkpoint,
                tmp_path / "x.keras",
                "torch",
                "keras",
                template=KERAS,
                convention="torch",
                allow_unmatched=True,
                names=NameMap({"2.weight": "dense/kernel"}),
            )
        )


# ---- the command ----


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command_prints_a_table(tmp_path):
    target = tmp_path / "x.pt"
    result = invoke("convert", KERAS, target, "--from", "keras", "--to", "torch")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0] == "parameter becomes shape layout norm then"
    assert lines[1].startswith("conv2d/kernel conv2d/kernel 6x1x3x3 HWIO -> OIHW ")
    assert "keras3 to torch: the same trajectory while lr is constant." in lines
    assert lines[-1] == f"{target} written"
    assert target.exists()


def test_the_command_takes_a_mapping_file_and_a_dry_run(checkpoint, tmp_path):
    names = tmp_path / "names.toml"
    names.write_text("[names]\n'*.weight' = 'w*'\n'*.bias' = 'b*'\n")
    target = tmp_path / "x.safetensors"
    given = ["convert", checkpoint, target, "--from", "torch", "--to", "safetensors"]
    result = invoke(*given, "--map", names, "--dry-run")
    assert f"{target} would be written" in result.stdout
    assert not target.exists()
    assert invoke(*given, "--map", names).exit_code == 0
    length = int.from_bytes(target.read_bytes()[:8], "little")
    header = json.loads(target.read_bytes()[8 : 8 + length])
    assert {"w0", "b0", "w2", "b2"} <= set(header)
