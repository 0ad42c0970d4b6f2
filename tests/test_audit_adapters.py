"""Other libraries' optimizers with torch's interface: their own numbers, bit for bit."""

import inspect
import textwrap
from functools import partial

import pytest
import torch

from sgdm.audit.adapters import adapted, from_function, from_keras, from_optax
from sgdm.audit.subject import Refused, Subject
from sgdm.errors import InvalidTypeError, InvalidValueError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STEPS = 6

# What Keras's own conversion of torch's tensors makes numpy say.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def the_optax():
    return pytest.importorskip("optax", reason="optax is not installed")


def the_keras():
    return pytest.importorskip("keras", reason="Keras is not installed")


def drawn(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def a_parameter(*shape, dtype=torch.float32):
    return torch.nn.Parameter(drawn(*shape, dtype=dtype))


def stepped(optimizer, p, steps=STEPS):
    for _ in range(steps):
        p.grad = p.detach().clone()
        optimizer.step()
    return p.detach()


def descend(params, grads, learning_rate=0.5, decay=0.0, flag=False):
    return [p - learning_rate * (g + decay * p) for p, g in zip(params, grads, strict=True)]


def heavy_ball(learning_rate, momentum=0.0):
    held = {}

    def step(params, grads):
        for i, g in enumerate(grads):
            held[i] = momentum * held.get(i, 0.0) + g
        return [p - learning_rate * held[i] for i, p in enumerate(params)]

    return step


# A function.


def test_a_function_steps_torchs_parameters():
    p = a_parameter(3, 2)
    q = p.detach().clone()
    optimizer = from_function(descend)([p], lr=0.25)
    assert torch.equal(stepped(optimizer, p, 1), q - 0.25 * q)
    assert optimizer.wrapped is descend


def test_what_is_made_keeps_its_state_apart_for_every_optimizer():
    p, q = (a_parameter(5, dtype=torch.float64) for _ in range(2))
    other = a_parameter(5, dtype=torch.float64)
    factory = from_function(heavy_ball)
    optimizer = factory([p], lr=0.1, momentum=0.9)
    stepped(factory([other], lr=0.1, momentum=0.9), other)
    reference = torch.optim.SGD([q], lr=0.1, momentum=0.9, foreach=False)
    assert torch.allclose(stepped(optimizer, p), stepped(reference, q), rtol=1e-14)


def test_numbers_alone_are_in_the_group_and_the_next_step_uses_them():
    p = a_parameter(4)
    optimizer = from_function(descend)([p], decay=0.5)
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in group if name != "params"} == {"lr": 0.5, "decay": 0.5}
    group["lr"], group["decay"] = 0.25, 0.0
    before = p.detach().clone()
    assert torch.equal(stepped(optimizer, p, 1), before - 0.25 * before)


def test_what_is_made_cannot_be_changed():
    (group,) = from_function(heavy_ball)([a_parameter(2)], lr=0.1).param_groups
    assert list(group) == ["params"]


def test_a_function_is_given_only_parameters_with_gradients():
    p, q = a_parameter(2), a_parameter(3)
    before = q.detach().clone()
    q.grad = torch.ones(3)
    untouched = p.detach().clone()
    from_function(descend)([p, q], lr=0.5).step()
    assert torch.equal(p, untouched)
    assert torch.equal(q, before - 0.5)


def test_what_is_made_steps_all_parameters_or_none():
    p, q = a_parameter(2), a_parameter(3)
    optimizer = from_function(heavy_ball)([p, q], lr=0.5)
    optimizer.step()
    q.grad = torch.ones(3)
    with pytest.raises(Refused, match="steps all parameters at once, and some have no gradient"):
        optimizer.step()


def test_a_function_gets_copies():
    def write(params, grads):
        params[0][:] = grads[0][:] = 7
        return [params[0] * 2]

    p = a_parameter(2)
    p.grad = torch.ones(2)
    from_function(write)([p]).step()
    assert p.tolist() == [14, 14]
    assert p.grad.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
def test_a_function_of_every_shape(shape):
    p = a_parameter(*shape)
    before = p.detach().clone()
    assert torch.equal(stepped(from_function(descend)([p]), p, 1), before * 0.5)


def test_a_transposed_parameter_and_gradient():
    p = torch.nn.Parameter(drawn(2, 3).T)
    p.grad = drawn(3, 2)
    expected = p.detach() - 0.5 * p.grad
    from_function(descend)([p]).step()
    assert torch.equal(p, expected)


@pytest.mark.parametrize(
    ("returns", "shown"),
    [
        (lambda params: params[0], "array"),
        (lambda params: [params[0][:1]], "array"),
        (lambda _: None, "None"),
    ],
    ids=["an array", "another shape", "nothing"],
)
def test_a_function_that_does_not_return_the_parameters(returns, shown):
    p = a_parameter(2)
    p.grad = torch.ones(2)
    optimizer = from_function(lambda params, grads: returns(params))([p])
    with pytest.raises(
        InvalidValueError,
        match=r"what the function returns must be the new parameters, a list of arrays of shapes "
        rf"\[\(2,\)\], got .*{shown}.*; return them all",
    ):
        optimizer.step()


def test_bfloat16_without_its_numpy_type_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(Refused, match="numpy has no bfloat16 where ml_dtypes is not installed"):
        from_function(descend)([a_parameter(2, dtype=torch.bfloat16)])


def test_sparse_gradients_are_refused():
    p = a_parameter(2)
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(Refused, match=r"only strided tensors can be handed over, not .*sparse_coo"):
        from_function(descend)([p]).step()


def test_a_closure_is_called_once_and_with_gradients():
    p = a_parameter(2)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = (p * p).sum()
        loss.backward()
        return loss

    optimizer = from_function(descend)([p])
    loss = (p * p).sum().item()
    assert optimizer.step(closure).item() == loss
    assert calls == [True]
    assert p.requires_grad


@pytest.mark.parametrize(("set_to_none", "left"), [(True, None), (False, [0.0, 0.0])])
def test_zero_grad(set_to_none, left):
    p = a_parameter(2)
    p.grad = torch.ones(2)
    from_function(descend)([p, a_parameter(1)]).zero_grad(set_to_none)
    assert (p.grad if p.grad is None else p.grad.tolist()) == left


# What an imported thing needs.


@pytest.mark.parametrize(
    ("factory", "names"),
    [(descend, ["lr", "decay", "flag"]), (heavy_ball, ["lr", "momentum"])],
)
def test_the_signature_is_in_torchs_names(factory, names):
    assert list(inspect.signature(from_function(factory)).parameters) == ["params", *names]
    subject = Subject(from_function(factory))
    assert subject.takes("lr")
    assert not subject.takes("learning_rate")


@pytest.mark.parametrize("factory", [descend, heavy_ball])
def test_an_argument_that_it_does_not_have_is_refused_at_once(factory):
    with pytest.raises(Refused, match=r"TypeError: .*argument 'weight'"):
        Subject(from_function(factory)).make([a_parameter(2)], lr=0.1, weight=3)


def test_parameter_groups_are_refused():
    message = (
        r"(?s)params must be tensors, got \[\{.*\}\]; make an optimizer for every parameter group"
    )
    with pytest.raises(InvalidTypeError, match=message):
        from_function(descend)([{"params": [a_parameter(2)]}])


def torch_factory(params, lr=0.1):
    return torch.optim.SGD(params, lr=lr)


@pytest.mark.parametrize("found", [torch.optim.SGD, torch_factory, from_function(descend)])
def test_what_has_torchs_interface_is_left_as_it_is(found):
    assert adapted(found) == (found, "")


@pytest.mark.parametrize("found", [descend, heavy_ball, lambda p, g: p])
def test_functions_are_known(found):
    factory, wrapper = adapted(found)
    assert wrapper == "from_function"
    assert next(iter(inspect.signature(factory).parameters)) == "params"


def test_optax_is_known():
    optax = the_optax()
    for found in (optax.sgd, lambda rate: optax.chain(optax.trace(0.9), optax.scale(-rate))):
        assert adapted(found)[1] == "from_optax"


def test_keras_is_known():
    keras = the_keras()
    for found in (keras.optimizers.SGD, partial(keras.optimizers.SGD, momentum=0.9)):
        assert adapted(found)[1] == "from_keras"


def unclear(x):
    raise RuntimeError(x)


@pytest.mark.parametrize("found", [unclear, lambda x: x])
def test_what_shows_nothing_is_asked_about(found):
    with pytest.raises(
        InvalidTypeError,
        match=r"subject must be a function of params and grads, or what makes torch optimizers of "
        "params, optax transformations or Keras optimizers, got <function .*; in a module of your "
        "own, name what from_function, from_optax or from_keras of sgdm.audit returns for it, or a "
        "factory whose first argument is called params",
    ):
        adapted(found)


# optax and Keras.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_optax_gives_the_numbers_that_it_gives_alone(dtype, settings):
    optax = the_optax()
    jax = pytest.importorskip("jax")
    p = a_parameter(3, 5, dtype=dtype)
    optimizer = from_optax(optax.sgd)([p], lr=0.1, **settings)
    x = jax.numpy.asarray(p.detach().double().numpy(), str(dtype).removeprefix("torch."))
    alone = optax.sgd(0.1, **settings)
    held = alone.init(x)
    for _ in range(STEPS):
        updates, held = alone.update(x, held, x)
        x = optax.apply_updates(x, updates)
    assert stepped(optimizer, p).dtype == dtype
    assert p.detach().double().tolist() == jax.device_get(x).astype("float64").tolist()


def test_optax_goes_on_with_its_state_under_new_hyperparameters():
    optax = the_optax()
    p, q = (a_parameter(5, dtype=torch.float64) for _ in range(2))
    optimizer = from_optax(optax.sgd)([p], lr=0.1, momentum=0.9)
    injected = from_optax(optax.inject_hyperparams(optax.sgd))([q], lr=0.1, momentum=0.9)
    for lr, momentum in ((0.1, 0.9), (0.01, 0.5), (0.2, 0.0), (0.2, 0.9)):
        for x, other in ((p, optimizer), (q, injected)):
            other.param_groups[0].update(lr=lr, momentum=momentum)
            stepped(other, x, 2)
        assert p.tolist() == q.tolist()
        assert optimizer.state[p]["momentum_buffer"].tolist() == (
            injected.state[q]["momentum_buffer"].tolist()
        )


def test_optax_of_another_state_is_refused():
    optax = the_optax()

    def sgd(learning_rate, weight_decay=0.0):
        decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
        return optax.chain(*decay, optax.sgd(learning_rate))

    p = a_parameter(2)
    optimizer = from_optax(sgd)([p], lr=0.1)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(Refused, match=r"keeps another state with weight_decay=0\.5"):
        stepped(optimizer, p, 1)


def test_optax_has_no_momentum_to_change_where_none_was_given():
    (group,) = from_optax(the_optax().sgd)([a_parameter(2)], lr=0.1).param_groups
    assert list(group) == ["params", "lr"]


def test_optax_steps_all_parameters_or_none():
    p, q = a_parameter(2), a_parameter(2)
    q.grad = torch.ones(2)
    with pytest.raises(Refused, match="some have no gradient"):
        from_optax(the_optax().sgd)([p, q], lr=0.1).step()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}],
)
def test_keras_gives_the_numbers_that_it_gives_alone(dtype, settings):
    keras = the_keras()
    p = a_parameter(3, 5, dtype=dtype)
    optimizer = from_keras(keras.optimizers.SGD)([p], lr=0.1, **settings)
    name = str(dtype).removeprefix("torch.")
    x = keras.Variable(p.detach().double().numpy(), dtype=name)
    alone = keras.optimizers.SGD(0.1, **settings)
    for _ in range(STEPS):
        alone.apply([keras.ops.copy(x.value)], [x])
    assert stepped(optimizer, p).dtype == dtype
    expected = keras.ops.convert_to_numpy(x.value).astype("float64").tolist()
    assert p.detach().double().tolist() == expected


def test_keras_follows_the_group():
    keras = the_keras()
    p, q = (a_parameter(5) for _ in range(2))
    optimizer = from_keras(keras.optimizers.SGD)([p], lr=0.125, momentum=0.5)
    reference = torch.optim.SGD([q], lr=0.125, momentum=0.5, foreach=False)
    stepped(reference, q, 1)
    stepped(optimizer, p, 1)
    assert {"lr", "momentum"} <= set(optimizer.param_groups[0])
    for group in (optimizer.param_groups[0], reference.param_groups[0]):
        group["lr"] = 0.0
    before = p.detach().clone()
    velocity = optimizer.state[p]["momentum_buffer"]
    assert torch.equal(stepped(optimizer, p, 1), before + velocity * 0.5)
    optimizer.param_groups[0]["momentum"] = 0.0
    before = p.detach().clone()
    assert torch.equal(stepped(optimizer, p, 1), before)


def test_keras_leaves_out_a_parameter_without_gradient():
    p, q = a_parameter(2), a_parameter(3)
    kept, before = p.detach().clone(), q.detach().clone()
    optimizer = from_keras(the_keras().optimizers.SGD)([p, q], lr=0.5, momentum=0.5)
    optimizer.step()
    q.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(p, kept)
    assert torch.equal(q, before - 0.5)


def test_keras_has_no_momentum_to_change_where_none_was_given():
    (group,) = from_keras(the_keras().optimizers.SGD)([a_parameter(2)]).param_groups
    assert group["lr"] == 0.01
    assert "momentum" not in group


def test_the_names_of_the_library_are_torchs():
    optax = the_optax()
    assert list(inspect.signature(from_optax(optax.sgd)).parameters) == [
        "params",
        "lr",
        "momentum",
        "nesterov",
        "accumulator_dtype",
    ]


@pytest.mark.parametrize(("wrapper", "library"), [(from_optax, the_optax), (from_keras, the_keras)])
def test_the_example(wrapper, library):
    library()
    example = str(wrapper.__doc__).split("installed::\n")[1]
    exec(textwrap.dedent(example), {})  # noqa: S102 - of our own docstring
