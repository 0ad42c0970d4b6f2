"""Pickled networks of scikit-learn: read without executing, written for it to go on from."""

import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import sgdm
from in_memory import slot
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert.checkpoint import Checkpoint
from sgdm.convert.files import sklearn
from sgdm.convert.files.sklearn import prepare
from sgdm.errors import FileError

read: Any = sklearn.read

FILES = Path(__file__).parent / "conformance" / "files"
NAMES = ["coefs_/0", "coefs_/1", "intercepts_/0", "intercepts_/1"]


def fitted(dtype="float64", *, order="C", hidden=(2,), **options) -> Any:
    """A network after one update."""
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3)).astype(dtype)
    settings: dict[str, Any] = {"solver": "sgd", "learning_rate_init": 0.1, "random_state": 0}
    network = MLPClassifier(hidden, **settings | options)
    network.partial_fit(x, np.arange(8) % 2, classes=[0, 1])
    if order == "F":
        network.coefs_ = [np.asfortranarray(array) for array in network.coefs_]
    return network


def pickled(path, network, protocol=4):
    path.write_bytes(pickle.dumps(network, protocol=protocol))
    return path


def in_torch_layout(array):
    return torch.from_numpy(np.ascontiguousarray(array.T))


def of_tensors(slots, **options) -> Any:
    """A checkpoint of (parameter, buffer) by name."""
    held = [slot(name, *tensors) for name, tensors in slots.items()]
    return Checkpoint(convention="sklearn", slots=held, **options)


def with_own(checkpoint, **own):
    """The same with hyperparameters of the first parameter's own."""
    slots = [replace(checkpoint.slots[0], own=own), *checkpoint.slots[1:]]
    return replace(checkpoint, slots=slots, hyperparameters={"lr": 0.1})


def read_all(path) -> Any:
    with read(path) as checkpoint:
        return {
            slot.name: (slot.parameter.read(), slot.buffer and slot.buffer.read())
            for slot in checkpoint.slots
        }


def random_slots(path):
    return {
        name: (torch.randn_like(p), torch.randn_like(p)) for name, (p, _) in read_all(path).items()
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_recorded_pickle_holds_what_scikit_learn_had(dtype):
    record = np.load(FILES / f"sklearn-{dtype}.npz")
    with read(FILES / f"sklearn-{dtype}.pickle") as checkpoint:
        assert checkpoint.convention == "sklearn"
        assert checkpoint.steps is None
        assert checkpoint.hyperparameters == {"lr": 0.1, "momentum": 0.9, "nesterov": True}
        assert checkpoint.remarks == [
            "alpha=0.05: a weight_decay of alpha/n on the coefs_ alone, with n examples in a batch",
            "t_=1500 examples seen; the updates done are not counted",
        ]
        assert [slot.name for slot in checkpoint.slots] == NAMES
        assert [slot.layout for slot in checkpoint.slots] == ["IO -> OI", "IO -> OI", "", ""]
        for slot in checkpoint.slots:
            expected = in_torch_layout(record[slot.name])
            assert slot.parameter.shape == expected.shape
            assert slot.parameter.dtype == getattr(torch, dtype)
            assert torch.equal(slot.parameter.read(), expected)
            velocity = slot.buffer.read()
            assert torch.equal(velocity, in_torch_layout(record[f"velocity/{slot.name}"]))
            assert velocity.is_contiguous()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
def test_torch_goes_on_as_scikit_learn_did(dtype, tolerance):
    record = np.load(FILES / f"sklearn-{dtype}.npz")
    held = read_all(FILES / f"sklearn-{dtype}.pickle")
    first, second = (
        torch.nn.Linear(*held[f"coefs_/{i}"][0].T.shape, dtype=getattr(torch, dtype))
        for i in range(2)
    )
    parameters = [first.weight, second.weight, first.bias, second.bias]
    optimizer = sgdm.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, convention="sklearn")
    for parameter, (value, velocity) in zip(parameters, held.values(), strict=True):
        parameter.data.copy_(value)
        optimizer.state[parameter]["momentum_buffer"] = velocity
    losses = []
    for pixels, digits in zip(record["pixels"], record["digits"], strict=True):
        hidden = torch.relu(first(torch.from_numpy(pixels)))
        decay = 0.5 * 0.05 / len(digits) * sum(w.square().sum() for w in parameters[:2])
        loss = cross_entropy(second(hidden), torch.from_numpy(digits)) + decay
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, record["losses"], rtol=tolerance, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
def test_scikit_learn_goes_on_from_what_is_written(dtype, tolerance, tmp_path):
    """Live: a template of another seed gets the recorded state, and then the recorded losses."""
    from sklearn.neural_network import MLPClassifier

    record = np.load(FILES / f"sklearn-{dtype}.npz")
    template = MLPClassifier(
        (12,), solver="sgd", learning_rate_init=0.1, alpha=0.05, shuffle=False, random_state=5
    )
    template.partial_fit(record["pixels"][0], record["digits"][0], classes=np.arange(10))
    other = pickled(tmp_path / "template.pickle", template)
    target = tmp_path / "written.pickle"
    with read(FILES / f"sklearn-{dtype}.pickle") as checkpoint:
        prepare(target, checkpoint, other)()
    network = pickle.loads(target.read_bytes())
    losses = []
    for pixels, digits in zip(record["pixels"], record["digits"], strict=True):
        network.partial_fit(pixels, digits)
        losses.append(network.loss_)
    np.testing.assert_allclose(losses, record["losses"], rtol=tolerance, atol=0)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_round_trip_keeps_every_bit(dtype, order, protocol, tmp_path, seed):
    template = pickled(tmp_path / "template", fitted(dtype, order=order), protocol)
    slots = random_slots(template)
    prepare(tmp_path / "written", of_tensors(slots), template)()
    for name, pair in read_all(tmp_path / "written").items():
        assert all(map(torch.equal, pair, slots[name]))
    network = pickle.loads((tmp_path / "written").read_bytes())
    for i, array in enumerate([*network.coefs_, *network.intercepts_]):
        assert torch.equal(in_torch_layout(array), slots[NAMES[i]][0])
        velocity = network._optimizer.velocities[i]
        assert torch.equal(in_torch_layout(velocity), slots[NAMES[i]][1])


def test_a_file_written_over_its_template_is_whole(tmp_path, seed):
    path = pickled(tmp_path / "same", fitted())
    slots = random_slots(path)
    prepare(path, of_tensors(slots), path)()
    assert all(map(torch.equal, read_all(path)["coefs_/1"], slots["coefs_/1"]))


def test_an_absent_buffer_becomes_the_zeros_that_scikit_learn_starts_with(tmp_path):
    template = pickled(tmp_path / "template", fitted())
    slots = {name: (p, None) for name, (p, _) in read_all(template).items()}
    prepare(tmp_path / "written", of_tensors(slots), template)()
    network = pickle.loads((tmp_path / "written").read_bytes())
    assert not any(velocity.any() for velocity in network._optimizer.velocities)


def test_a_network_without_an_optimizer_has_no_buffers(tmp_path):
    network = fitted()
    del network._optimizer
    path = pickled(tmp_path / "network", network)
    with read(path) as checkpoint:
        assert [slot.buffer for slot in checkpoint.slots] == [None] * 4
        assert checkpoint.hyperparameters == {}
    slots = {name: (p, p) for name, (p, _) in read_all(path).items()}
    with pytest.raises(FileError, match="the template has no place for its velocity; pickle the"):
        prepare(tmp_path / "written", of_tensors(slots), path)()


def test_numbers_of_numpy_are_numbers(tmp_path):
    network = fitted(momentum=np.float64(0.5), alpha=np.float32(0))
    network._optimizer.learning_rate = np.float64(0.25)
    with read(pickled(tmp_path / "network", network)) as checkpoint:
        assert checkpoint.hyperparameters == {"lr": 0.25, "momentum": 0.5, "nesterov": True}
        assert not any("alpha" in remark for remark in checkpoint.remarks)


def test_a_schedule_is_remarked(tmp_path):
    with read(pickled(tmp_path / "network", fitted(learning_rate="adaptive"))) as checkpoint:
        assert checkpoint.remarks[-1] == (
            "learning_rate='adaptive': the lr is that of the next update"
        )


def test_velocities_of_another_epoch_than_the_parameters_are_left_out(tmp_path):
    """With early stopping, the coefs_ go back to the best epoch, and the velocities do not."""
    network = fitted()
    network.early_stopping = True
    path = pickled(tmp_path / "network", network)
    with read(path) as checkpoint:
        assert [slot.buffer for slot in checkpoint.slots] == [None] * 4
        assert any("early_stopping=True: the velocities" in text for text in checkpoint.remarks)
    slots = {name: (p, p) for name, (p, _) in read_all(path).items()}
    with pytest.raises(FileError, match=r"early_stopping: it is True, .* set early_stopping=False"):
        prepare(tmp_path / "written", of_tensors(slots), path)


def test_the_settings_that_a_template_keeps_are_remarked(tmp_path):
    template = pickled(tmp_path / "template", fitted(alpha=0.5, learning_rate="adaptive"))
    given = of_tensors(random_slots(template))
    prepare(tmp_path / "written", given, template)
    assert given.remarks[0].startswith("of the template: alpha=0.5: a weight_decay of alpha/n")
    assert given.remarks[-1].startswith("of the template: learning_rate='adaptive'")


def test_a_schedule_of_the_templates_own_steps_is_refused(tmp_path):
    """It sets the learning rate after each epoch, by the examples that the template has seen."""
    template = pickled(tmp_path / "template", fitted(learning_rate="invscaling"))
    with pytest.raises(FileError, match=r"learning_rate: its schedule, 'invscaling', goes on from"):
        prepare(tmp_path / "written", of_tensors(random_slots(template)), template)


def refused_contents():
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        lbfgs = fitted().set_params(solver="lbfgs").fit([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [0, 1])
    mismatched = fitted()
    mismatched._optimizer.velocities.pop()
    misshapen = fitted()
    misshapen._optimizer.velocities[0] = np.zeros((2, 3))
    whole = fitted()
    whole.coefs_[0] = whole.coefs_[0].astype(np.float16)
    foreign = fitted()
    foreign.coefs_[0] = "no array"
    swapped = fitted()
    swapped.coefs_[0] = swapped.coefs_[0].astype(">f8")
    infinite = fitted()
    infinite._optimizer.learning_rate = float("nan")
    return {
        "dict": ({}, "pickle: holds a dict, no estimator; pickle the MLPClassifier or"),
        "pipeline": (
            make_pipeline(fitted()),
            "pickle: holds a sklearn.pipeline Pipeline; pickle the MLPClassifier or MLPRegressor "
            "itself",
        ),
        "adam": (
            fitted(solver="adam"),
            "pickle: the estimator's solver is 'adam', which keeps no velocities; use one with "
            'solver="sgd"',
        ),
        "lbfgs": (lbfgs, "pickle: the estimator's solver is 'lbfgs'"),
        "unfitted": (
            MLPClassifier(solver="sgd"),
            "pickle: the estimator is not fitted; fit it, or partial_fit it once",
        ),
        "mismatched": (mismatched, "there are 4, and 3 velocities; take an intact copy"),
        "misshapen": (
            misshapen,
            "coefs_/0 is torch.float64 (3, 2), its velocity torch.float64 (2, 3); take",
        ),
        "float16": (
            whole,
            "coefs_[0]: its numbers are f2, neither float32 nor float64; fit the estimator with",
        ),
        "foreign": (foreign, "coefs_[0]: it is a str, no array"),
        "big-endian": (swapped, "coefs_[0]: its numbers are of another kind"),
        "nan": (infinite, "_optimizer: learning_rate is no finite number"),
    }


@pytest.mark.parametrize("name", [*refused_contents()])
def test_another_content_is_refused(name, tmp_path):
    content, text = refused_contents()[name]
    path = pickled(tmp_path / "file", content)
    with pytest.raises(FileError) as refused:
        read_all(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert text in str(refused.value)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_an_old_protocol_is_named(tmp_path, protocol):
    path = pickled(tmp_path / "file", fitted(), protocol=protocol)
    with pytest.raises(FileError, match=r"it is no pickle of protocol 3 to 5; load it .* 3, 4 or"):
        read_all(path)


def test_a_file_of_joblib_is_refused(tmp_path):
    import joblib

    joblib.dump(fitted(), tmp_path / "plain")
    with pytest.raises(FileError, match=r"a file of joblib's, .* load it with joblib and pickle"):
        read_all(tmp_path / "plain")
    dump: Any = joblib.dump
    for method in ("zlib", "gzip", "bz2", "xz", "lzma"):
        dump(fitted(), tmp_path / "packed", compress=(method, 3))
        with pytest.raises(FileError, match=r"it is compressed; load it with joblib and pickle\.d"):
            read_all(tmp_path / "packed")


def test_a_value_that_takes_for_ever_to_show_is_not_shown(tmp_path):
    """A tuple of twice the same tuple, sixty times."""
    doubled = b"".join(b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    data = (
        b"\x80\x04\x8c\x16sklearn.neural_network\x8c\x0dMLPClassifier\x93)\x81}"
        b"\x8c\x06solver)\x94" + doubled + b"sb."
    )
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(FileError, match="the estimator's solver is a tuple, which keeps no"):
        read_all(path)


def test_a_missing_file_and_needless_weights_are_named(tmp_path):
    with pytest.raises(FileError, match=r"none: file: cannot be opened .No such file"):
        read_all(tmp_path / "none")
    path = pickled(tmp_path / "file", fitted())
    refused = pytest.raises(FileError, match="weights: an estimator's pickle holds its own")
    with refused, read(path, path):
        pass


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda c: replace(c, slots=c.slots[1:]),
            "template: its parameters are coefs_/0, coefs_/1, intercepts_/0, intercepts_/1, the "
            "checkpoint's coefs_/1, intercepts_/0, intercepts_/1; give the pickle of the same "
            "network, or a mapping file",
        ),
        (lambda c: replace(c, slots=[*c.slots, c.slots[0]]), "template: its parameters are"),
        (
            lambda c: replace(c, slots=[replace(c.slots[0], parameter=None), *c.slots[1:]]),
            "coefs_/0: the checkpoint has its velocity alone; give the parameters too",
        ),
        (
            lambda c: replace(
                c, slots=[replace(c.slots[0], buffer=c.slots[2].buffer), *c.slots[1:]]
            ),
            "coefs_/0: it is torch.float64 (2, 3) there, in the checkpoint torch.float64 (2,); "
            "take a template of the same network, fitted with data of that dtype",
        ),
        (
            lambda c: replace(c, convention="torch"),
            "checkpoint: the checkpoint's buffers are those of 'torch'; convert them to 'sklearn'",
        ),
        (
            lambda c: replace(c, hyperparameters={"dampening": 0.5}),
            "checkpoint: the checkpoint has dampening=0.5, which 'sklearn' has not; convert it",
        ),
        (
            lambda c: replace(c, hyperparameters={"weight_decay": 0.5}),
            "alpha: the checkpoint has weight_decay=0.5, and scikit-learn decays the coefs_ alone, "
            "by alpha divided by the examples of each batch; give weight_decay=0, and set alpha",
        ),
        (
            lambda c: with_own(c, lr=0.5),
            "coefs_/0: the checkpoint has lr=0.5 for it, and 0.1 for others; convert a run with",
        ),
        (
            lambda c: replace(c, hyperparameters={"lr": 0.5}),
            "_optimizer: its learning_rate is 0.1, the checkpoint's lr 0.5; set "
            "_optimizer.learning_rate of the estimator to 0.5 and pickle it again",
        ),
        (
            lambda c: replace(c, hyperparameters={"nesterov": False}),
            "_optimizer: its nesterov is True, the checkpoint's nesterov False; set "
            "_optimizer.nesterov of the estimator to False and pickle it again",
        ),
    ],
)
def test_what_does_not_fit_the_template_is_refused(change, text, tmp_path):
    template = pickled(tmp_path / "template", fitted())
    with pytest.raises(FileError) as refused:
        prepare(tmp_path / "written", change(of_tensors(read_all(template))), template)()
    assert str(refused.value).startswith(f"{template}: {text}")
    assert [path.name for path in tmp_path.iterdir()] == ["template"]


def test_a_template_is_needed(tmp_path):
    with pytest.raises(FileError, match=r"there is none, .* give a pickle of the same network"):
        prepare(tmp_path / "written", of_tensors({}))()


def test_a_template_whose_arrays_are_one_is_refused(tmp_path):
    network = fitted()
    network._optimizer.velocities = [*network.coefs_, *network.intercepts_]
    template = pickled(tmp_path / "template", network)
    with pytest.raises(FileError, match="two of its tensors overlap"):
        prepare(tmp_path / "written", of_tensors(read_all(template)), template)()


def test_a_tensor_that_fails_leaves_no_file(tmp_path):
    template = pickled(tmp_path / "template", fitted())

    def fail():
        raise FileError("broken there")

    with read(template) as checkpoint:
        last = checkpoint.slots[-1]
        checkpoint.slots[-1] = replace(last, parameter=replace(last.parameter, read=fail))
        with pytest.raises(FileError, match="broken there"):
            prepare(tmp_path / "written", checkpoint, template)()
    assert [path.name for path in tmp_path.iterdir()] == ["template"]


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_nothing_in_a_pickle_runs(tmp_path):
    mark = tmp_path / "mark"
    for place in ("itself", "loss_", "coefs_", "velocities", "momentum"):
        network = fitted()
        if place == "itself":
            network = Hostile(str(mark))
        elif place == "coefs_":
            network.coefs_[0] = Hostile(str(mark))
        elif place == "velocities":
            network._optimizer.velocities[0] = Hostile(str(mark))
        elif place == "momentum":
            network._optimizer.momentum = Hostile(str(mark))
        else:
            network.loss_ = Hostile(str(mark))
        path = pickled(tmp_path / "hostile", network)
        if place == "loss_":
            read_all(path)
        else:
            with pytest.raises(FileError):
                read_all(path)
        assert not mark.exists()
        pickled(path, Hostile(str(mark)), protocol=0)
        with pytest.raises(FileError):
            read_all(path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(str(mark))))
    assert mark.exists()  # it would have


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x04.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",  # bytes, exabytes
        b"\x80\x04\x96" + b"\0\0\0\0\0\x10\0\0",  # a bytearray, terabytes
        b"\x80\x04\x8b\xff\xff\xff\x7f",  # an integer of two gigabytes
        b"\x80\x04)" + b"\x85" * 500_000 + b".",  # tuples in tuples
        b"\x80\x04]" + b"2" * 500_000 + b".",
        b"\x80\x04" + b"(" * 500_000 + b".",
        b"\x80\x04" + b"N0" * 1_200_000 + b".",  # more opcodes than any network has
        b"\x80\x04]q\x00h\x00a.",  # a list in itself
        b"\x80\x04Nr\xff\xff\xff\xff.",  # the memo of a C pickle would take gigabytes
    ],
)
def test_a_made_up_pickle_is_refused(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FileError, match=str(tmp_path / "file")):
        read_all(tmp_path / "file")


def test_a_shape_that_claims_terabytes_is_refused(tmp_path):
    data = pickle.dumps(fitted(hidden=(77,)), protocol=4)
    assert b"K\x03KM\x86" in data
    path = tmp_path / "file"
    path.write_bytes(data.replace(b"K\x03KM\x86", b"K\x03\x8a\x06\0\0\0\0\0\x01\x86", 1))
    with pytest.raises(FileError, match=r"coefs_\[0\]: its shape is no tuple of possible counts"):
        read_all(path)
    path.write_bytes(data.replace(b"K\x03KM\x86", b"K\x03KN\x86", 1))
    with pytest.raises(FileError, match=r"its shape \(3, 78\) does not fit the 1848 bytes it has"):
        read_all(path)


@pytest.mark.parametrize("protocol", [4, 5])
@mutations(5_000)
def test_mutations(protocol, tmp_path, seed, count):
    network = fitted()
    network._random_state = None  # 2.5 KB of it
    data = pickle.dumps(network, protocol=protocol)
    refused = check_reader(read_all, data, tmp_path / "file", seed=seed, count=count)
    assert refused > count // 5


@measures_memory
def test_one_array_at_a_time_is_in_memory(tmp_path):
    network = fitted("float32")
    network.coefs_ = [np.ones((5000, 4000), np.float32), np.ones((4000, 1), np.float32)]
    network.intercepts_ = [np.ones(4000, np.float32), np.ones(1, np.float32)]
    network._optimizer.velocities = [
        np.full_like(array, 2) for array in (*network.coefs_, *network.intercepts_)
    ]
    path = pickled(tmp_path / "large", network)
    del network
    grown = peak_growth(
        "from sgdm.convert.files.sklearn import prepare, read",
        """
        source, copy = paths
        with read(source) as checkpoint:
            prepare(copy, checkpoint, source)()
        """,
        path,
        tmp_path / "copy",
    )
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert grown < 2.5 * path.stat().st_size
