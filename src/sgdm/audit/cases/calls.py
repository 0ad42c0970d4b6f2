"""How a step may be called, and what it leaves behind."""

import os
from collections.abc import Callable
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import WITH_CHANGES
from sgdm.audit.isolated import isolated

__all__ = ["CASES"]


def closure_is_called_once(make: Callable[..., Any]) -> None:
    p, calls = torch.nn.Parameter(torch.ones(5)), list[bool]()

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        p.grad = torch.ones(5)
        return p.detach().sum()

    make([p]).step(closure)
    assert len(calls) == 1, f"a step called its closure {len(calls)} times"
    assert calls[0], "a step called its closure with gradients disabled"


def closure_loss_is_returned(make: Callable[..., Any]) -> None:
    p = torch.nn.Parameter(torch.ones(5))

    def closure() -> torch.Tensor:
        p.grad = torch.ones(5)
        return torch.tensor(7.5)

    loss = make([p]).step(closure)
    assert loss is not None, "a step with a closure returns None, not its loss"
    assert loss == 7.5, f"a step whose closure returns 7.5 returns {loss}"


def closure_gradient_is_used(make: Callable[..., Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    p.grad, q.grad = torch.full((5,), -3.0), torch.ones(5)

    def closure() -> torch.Tensor:
        p.grad = torch.ones(5)
        return p.detach().sum()

    make([p]).step(closure)
    make([q]).step()
    assert torch.equal(p, q), "a step does not use the gradients that its closure set"


def grad_mode_does_not_matter(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    for x, enabled in ((p, True), (q, False)):
        optimizer = make([x], **changes)
        for step in range(3):
            x.grad = torch.full_like(x, step + 1.0)
            with torch.set_grad_enabled(enabled):
                optimizer.step()
    assert torch.equal(p, q), f"under no_grad it ends at {q[0]:.9g}, outside at {p[0]:.9g}"


@isolated
def threads_do_not_matter(make: Callable[..., Any], n: int, changes: dict[str, Any]) -> None:
    """Up to the last digits: a norm of many elements is summed in as many parts as threads."""
    p, q = (torch.nn.Parameter(torch.ones(n)) for _ in range(2))
    for x, threads in ((p, 1), (q, 2)):
        torch.set_num_threads(threads)
        optimizer = make([x], **changes)
        for step in range(2):
            x.grad = torch.arange(n) / n + step
            optimizer.step()
    other = n - int(torch.isclose(p, q, rtol=1e-6).sum())
    assert other == 0, f"with 2 threads {other} of {n} elements are stepped otherwise than with 1"


@isolated
def forked_child_steps(make: Callable[..., Any]) -> None:
    """Torch's own threads do not survive a fork: the child uses one, as a data loader's does."""
    from multiprocessing import get_context

    torch.set_num_threads(2)
    p = torch.nn.Parameter(torch.ones(100_003))
    p.grad, optimizer = torch.ones_like(p), make([p])
    optimizer.step()
    child = get_context("fork").Process(target=lambda: torch.set_num_threads(1) or optimizer.step())
    child.start()
    child.join(2)
    code, _ = child.exitcode, child.kill()
    assert code == 0, f"a step in a forked child {'hangs' if code is None else 'fails'}"


def zero_grad_sets_to_none(make: Callable[..., Any]) -> None:
    ps = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
    optimizer = make([{"params": [p]} for p in ps])
    for p in ps:
        p.grad = torch.ones(5)
    optimizer.zero_grad(set_to_none=False)
    left = [None if p.grad is None else float(p.grad.sum()) for p in ps]
    assert left == [0, 0], f"zero_grad(set_to_none=False) left gradients whose sums are {left}"
    optimizer.zero_grad()
    assert all(p.grad is None for p in ps), "zero_grad() left a gradient"


def parameter_stays_a_leaf(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = make([p], **changes)
    for _ in range(2):
        p.grad = torch.ones(5)
        optimizer.step()
    assert p.is_leaf, "a step leaves the parameter with a graph behind it"
    assert p.requires_grad, "a step turns the parameter's requires_grad off"
    for key, value in optimizer.state[p].items():
        assert not getattr(value, "requires_grad", False), f"the state's {key} requires a gradient"


def stale_graph_is_noticed(make: Callable[..., Any]) -> None:
    """Backward raises by the version; without, it takes the gradient at the new values."""
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    optimizer, before = make([p]), p._version
    optimizer.step()
    assert p._version > before or bool((p == 1).all()), (
        "a step does not raise the parameter's version: backward through a graph from before it "
        "gives wrong gradients without an error"
    )


CASES = (
    Case(defect="the closure is called wrongly", body=closure_is_called_once, torch_only=True),
    Case(
        defect="the closure's loss is not returned",
        body=closure_loss_is_returned,
        torch_only=True,
    ),
    Case(
        defect="the closure's gradients are not used",
        body=closure_gradient_is_used,
        torch_only=True,
    ),
    Case(
        defect="the result depends on whether gradients are enabled",
        body=grad_mode_does_not_matter,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="the result depends on the number of threads",
        body=threads_do_not_matter,
        settings=tuple({"n": 100_003, **changes} for changes in WITH_CHANGES[::2]),
    ),
    *(
        Case(defect="a forked child cannot step", body=forked_child_steps, torch_only=True)
        for _ in range(hasattr(os, "fork"))
    ),
    Case(defect="zero_grad does not clear", body=zero_grad_sets_to_none, torch_only=True),
    Case(
        defect="a step touches the graph",
        body=parameter_stays_a_leaf,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="a graph from before the step stays usable",
        body=stale_graph_is_noticed,
        torch_only=True,
    ),
)
