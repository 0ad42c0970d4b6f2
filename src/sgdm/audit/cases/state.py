"""What is saved, loaded and copied goes on as if it had not been."""

from collections.abc import Callable
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import CHANGES, WITH_CHANGES

__all__ = ["CASES"]


def resumed_run_goes_on(make: Callable[..., Any], k: int, changes: dict[str, Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    a, b = make([p], **changes), make([q], **changes)
    for step in range(8):
        if step == k:
            saved, b = b.state_dict(), make([q], **changes)
            b.load_state_dict(saved)
        p.grad, q.grad = torch.full_like(p, step + 1.0), torch.full_like(q, step + 1.0)
        a.step()
        b.step()
    assert torch.equal(p, q), f"resumed after {k} steps, it ends at {q[0]:.9g}, not {p[0]:.9g}"


def state_finds_its_parameter(make: Callable[..., Any]) -> None:
    """The first parameter never has a gradient, so that its state may be missing."""
    ps, qs = ([torch.nn.Parameter(torch.ones(2)) for _ in range(3)] for _ in range(2))
    for params in (ps[1:], qs):
        optimizer = make(params, momentum=0.9)
        for step in range(6):
            if step == 3:
                saved, optimizer = optimizer.state_dict(), make(params, momentum=0.9)
                optimizer.load_state_dict(saved)
            for p, number in zip(params[-2:], (1.0, 8.0), strict=True):
                p.grad = torch.full_like(p, number)
            optimizer.step()
    assert all(map(torch.equal, ps[1:], qs[1:])), "loaded, the state belongs to other parameters"


def state_dict_can_be_saved(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    import io

    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    optimizer, file = make([p], **changes), io.BytesIO()
    optimizer.step()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    assert not unsafe, f"torch.load refuses the saved state dict for {unsafe}"


def loaded_settings_are_used(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    import copy

    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    a, b = make([p]), make([q], **changes)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for step in range(3):
        p.grad, q.grad = torch.full_like(p, step + 1.0), torch.full_like(q, step + 1.0)
        a.step()
        b.step()
    assert torch.equal(p, q), f"made with {changes}, it steps by them, not by what was loaded"


def loading_leaves_the_dict(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    import copy

    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    optimizer = make([p], **changes)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    before = repr(saved)
    make([p], **changes).load_state_dict(saved)
    assert repr(saved) == before, f"loading turned {before} into {saved}"


def loaded_state_is_a_copy(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    a, b = make([p], **changes), make([p], **changes)
    a.step()
    b.load_state_dict(a.state_dict())
    before = repr(a.state_dict())
    b.step()
    assert repr(a.state_dict()) == before, "after b.load_state_dict(a.state_dict()), b steps for a"


def deepcopy_goes_on(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    import copy

    p = torch.nn.Parameter(torch.ones(5))
    p.grad, a = torch.ones(5), make([p], **changes)
    a.step()
    q, b = copy.deepcopy((p, a))
    for x, optimizer in 3 * ((p, a), (q, b)):
        x.grad = torch.ones(5)
        optimizer.step()
    assert torch.equal(p, q), f"the copy ends at {q[0]:.9g}, the original at {p[0]:.9g}"


def pickle_goes_on(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    import pickle

    p = torch.nn.Parameter(torch.ones(5))
    p.grad, a = torch.ones(5), make([p], **changes)
    a.step()
    q, b = pickle.loads(pickle.dumps((p, a)))
    for x, optimizer in 3 * ((p, a), (q, b)):
        x.grad = torch.ones(5)
        optimizer.step()
    assert torch.equal(p, q), f"the copy ends at {q[0]:.9g}, the original at {p[0]:.9g}"


def state_keeps_its_dtype(
    make: Callable[..., Any], dtype: torch.dtype, changes: dict[str, Any]
) -> None:
    p = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    p.grad = torch.ones_like(p)
    a, b = make([p], **changes), make([p], **changes)
    a.step()
    b.load_state_dict(a.state_dict())
    for key, old in a.state[p].items():
        was, now = (getattr(value, "dtype", None) for value in (old, b.state[p][key]))
        assert was == now, f"{key} of a parameter in {dtype} was {was}; loaded, it is {now}"


CASES = (
    Case(
        defect="a resumed run is another one",
        body=resumed_run_goes_on,
        settings=tuple({"k": k, "changes": c} for c in CHANGES for k in (0, 1, 2, 5)),
        torch_only=True,
    ),
    Case(
        defect="the state is given to another parameter when it is loaded",
        body=state_finds_its_parameter,
        needs=("momentum",),
        torch_only=True,
    ),
    Case(
        defect="the state dict cannot be saved, or loaded again by torch.load",
        body=state_dict_can_be_saved,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="loaded hyperparameters are ignored",
        body=loaded_settings_are_used,
        settings=tuple(
            {"changes": c} for c in ({"lr": 0.37}, {"weight_decay": 0.3}, {"momentum": 0.37})
        ),
        torch_only=True,
    ),
    Case(
        defect="loading changes the state dict",
        body=loading_leaves_the_dict,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="a loaded state is shared with the optimizer it came from",
        body=loaded_state_is_a_copy,
        settings=WITH_CHANGES,
        torch_only=True,
        note=True,
    ),
    Case(
        defect="a deep copy of the model and its optimizer goes on otherwise",
        body=deepcopy_goes_on,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="a pickled model and optimizer go on otherwise",
        body=pickle_goes_on,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="the state's dtype changes when it is loaded",
        body=state_keeps_its_dtype,
        settings=tuple(
            {"dtype": dtype, "changes": c}
            for c in CHANGES
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        ),
        torch_only=True,
        may_refuse=True,
    ),
)
