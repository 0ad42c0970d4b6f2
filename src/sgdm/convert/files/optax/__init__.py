"""optax in flax's msgpack files: what flax.serialization.to_bytes writes of a train state.

Read are {"params": ..., "opt_state": ..., "step": ...}, alone or inside other maps, and the
optimizer's state alone; the trace is found wherever optax.chain, inject_hyperparams, MultiSteps,
masked or multi_transform have put it. Parameters are named by the path to them, "Dense_0/kernel";
arrays named "kernel" have their channels last, as flax's Dense and Conv have (a depthwise Conv is
an ordinary one of one input channel); all others are as torch has them. A trace that is None is an
absent buffer; a parameter without a trace, where others have one, is taken for frozen.

nesterov is in no file, and weight decay, lr and momentum only where inject_hyperparams keeps them.

Not told apart from a convolution: the kernels of ConvTranspose, whose axes torch has in another
order and mirrored, and of DenseGeneral with several axes.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sgdm.convert.checkpoint import Checkpoint, Slot, broken, listed
from sgdm.convert.files.optax.flax_file import FlaxFile, layout_of, open_flax
from sgdm.convert.files.optax.injected import Injected
from sgdm.convert.files.optax.reader import Array
from sgdm.convert.files.optax.rule import check_rule, unsaid
from sgdm.convert.files.optax.train_state import Placed, TrainState
from sgdm.convert.files.optax.train_state_writing import new_content, not_held, replacements
from sgdm.convert.files.optax.writer import patch_of, write_content
from sgdm.convert.layout import described
from sgdm.convert.raw import write_patched
from sgdm.convert.statistics import PARAMETER_DTYPES
from sgdm.files import write_atomically

__all__ = ["prepare", "read"]

_WRONG_WEIGHTS = "give the weights that were trained"


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Yield what a msgpack file of flax holds.

    Args:
        path: The file.
        weights: Another one with the parameters, where the first holds an optimizer's state alone:
            a train state, or nothing but parameters.

    Raises:
        FileError: If a file is broken, or of another rule than SGD with momentum.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_flax(path))
        held_by = file if weights is None else stack.enter_context(open_flax(weights, bare=True))
        yield _checkpoint(file, held_by)


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a file that flax.serialization.from_bytes reads into a train state.

    Args:
        path: What to write.
        checkpoint: What is written. Of unknown `steps` a file without a template says 0.
        template: A file of the target's train state, as flax wrote it. It is copied with other
            parameters and traces; with the checkpoint's steps in every count of the optimizer, and
            its lr, momentum and weight_decay where inject_hyperparams holds them. What the
            checkpoint does not have stays. For an absent buffer it has zeros, which optax starts
            with; without a template, None, which optax takes where the gradient is None.

    Raises:
        FileError: If the template has no place for a tensor, or the file cannot be written.
    """
    steps = checkpoint.steps
    if steps is not None and not 0 <= steps < 2**63:
        raise broken(path, "step", f"it cannot be {steps}", "count from 0")
    if template is None:
        content = new_content(path, checkpoint)
        checkpoint.remarks += not_held(checkpoint, set())
        if still := [slot.name for slot in checkpoint.slots if not slot.stepped]:
            checkpoint.remarks.append(f"not stepped, and among the params: {listed(still)}")
        return lambda: write_atomically(path, lambda file: write_content(file, content))
    with open_flax(template) as source:
        patches = [patch_of(*it) for it in replacements(source, checkpoint)]
        checkpoint.remarks += not_held(checkpoint, source.state.hyperparameters.keys())

    def write() -> None:
        with open_flax(template) as source:
            write_atomically(path, lambda file: write_patched(file, source.file, template, patches))

    return write


def _checkpoint(file: FlaxFile, held_by: FlaxFile) -> Checkpoint:
    state = file.state
    parameters, left = _parameters(file, held_by)
    check_rule(file.path, state, None if parameters is None else list(parameters))
    buffers = {name: _buffer(file, placed) for name, placed in state.traces.items()}
    if parameters is not None:
        _check_fit(file, parameters, buffers)
    injected = Injected(file)
    slots: list[Slot] = []
    untraced = [name for name in parameters or () if buffers and name not in buffers]
    lacking = {name: {"momentum": 0.0} if state.untraced else {} for name in untraced}
    for name in buffers if parameters is None else parameters:
        parameter, buffer = (parameters or {}).get(name), buffers.get(name)
        array = parameter or buffer
        slots.append(
            Slot(
                name=name,
                layout=described(layout_of(name), len(array.shape)) if array else "",
                parameter=held_by.stored(name, parameter) if parameter else None,
                buffer=file.stored(name, buffer) if buffer else None,
                own=lacking.get(name) or injected.own(name),
                stepped=name not in lacking or bool(state.untraced),
            )
        )
    remarks = [*injected.remarks, *_untraced(state, untraced), *_rounding(slots), *unsaid(state)]
    remarks += _accumulated(file)
    if others := left + state.harmless + state.others + state.averages:
        remarks.append(f"left out: {listed(others)}")
    return Checkpoint(
        convention="optax",
        slots=slots,
        hyperparameters=dict(injected.common),
        steps=_steps(file),
        remarks=remarks,
    )


def _untraced(state: TrainState, names: list[str]) -> list[str]:
    """Return a remark on parameters without a trace, where others have one."""
    if not names:
        return []
    if not state.untraced:
        return [f"taken for frozen, without a trace: {listed(names)}"]
    return [f"taken for without momentum, by {listed(state.untraced)}: {listed(names)}"]


def _parameters(file: FlaxFile, held_by: FlaxFile) -> tuple[dict[str, Array] | None, list[str]]:
    """Return what can be trained, by name, and the places of what cannot."""
    if held_by.parameters is None:
        if held_by is not file:
            raise broken(held_by.path, "params", "there are none", _WRONG_WEIGHTS)
        return None, []
    arrays: dict[str, Array] = {}
    left: list[str] = []
    for name, placed in held_by.parameters.items():
        node = placed.node
        # An NNX module has its statistics and counters among the parameters.
        trained = held_by.state.all_are_trained or name in file.state.traces
        if trained and isinstance(node, Array) and node.dtype in PARAMETER_DTYPES:
            arrays[name] = node
        elif isinstance(node, Array) or node.value is not None:
            left.append(placed.place)
    return arrays, left


def _buffer(file: FlaxFile, placed: Placed) -> Array | None:
    node = placed.node
    if isinstance(node, Array) and node.dtype in PARAMETER_DTYPES:
        return node
    if isinstance(node, Array) or node.value is not None:
        what = node.dtype if isinstance(node, Array) else node.value
        raise broken(file.path, placed.place, f"it is {what}, and should be a floating-point array")
    return None


def _check_fit(
    file: FlaxFile, parameters: dict[str, Array], buffers: dict[str, Array | None]
) -> None:
    for name, buffer in buffers.items():
        if buffer is None:
            continue
        parameter, place = parameters.get(name), file.state.traces[name].place
        if parameter is None:
            raise broken(file.path, place, "there is no parameter of this name", _WRONG_WEIGHTS)
        if parameter.shape != buffer.shape:
            problem = f"its shape is {buffer.shape}, its parameter's {parameter.shape}"
            raise broken(file.path, place, problem, _WRONG_WEIGHTS)


def _rounding(slots: list[Slot]) -> list[str]:
    dtypes = {
        f"{slot.buffer.dtype} for {slot.parameter.dtype}".replace("torch.", "")
        for slot in slots
        if slot.parameter and slot.buffer and slot.parameter.dtype != slot.buffer.dtype
    }
    return [f"the accumulator's dtype, {kinds}: it is rounded after every step" for kinds in dtypes]


def _accumulated(file: FlaxFile) -> list[str]:
    """Return a remark on gradients of a step that is not complete."""
    return [
        f"gradients that MultiSteps has accumulated: {placed.place} is {count}, and 0 between steps"
        for placed in file.state.mini_steps
        if (count := file.number(placed))
    ]


def _steps(file: FlaxFile) -> int | None:
    """Return the count that a schedule would see, else the train state's."""
    for places in (file.state.counts, file.state.steps):
        counts = {file.number(placed) for placed in places}
        if len(counts) == 1 and isinstance(count := counts.pop(), int) and count >= 0:
            return count
    return None
