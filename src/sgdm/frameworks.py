"""The table of conventions: one row a rule, in the order of the seed text.

Rows hold rules, never defaults of hyperparameters.
"""

from difflib import get_close_matches

from sgdm.convention import Convention
from sgdm.errors import InvalidValueError

__all__ = ["get_convention", "list_conventions", "register_convention"]

_TABLE = (
    Convention(
        name="torch",
        title="equation (1), as torch.optim.SGD",
        lr="outside",
        sign="gradient",
        gain="1-dampening",
        first="copy",
        nesterov="optional",
        nesterov_check=True,
        momentum_zero="freeze",
        sparse=True,
        equations=("v = μ·v + (1-τ)·d", "θ = θ - ε·v", "Nesterov: Θ = Θ - ε·(d + μ·v)"),
        source="torch/optim/sgd.py; the seed's equation (1)",
    ),
    Convention(
        name="negated",
        title="equation (2), the sign turned",
        lr="outside",
        sign="step",
        equations=("v = μ·v - d", "θ = θ + ε·v"),
        source="the seed's equation (2)",
    ),
    Convention(
        name="caffe",
        title="equation (3), ε in the buffer",
        lr="inside",
        sign="gradient",
        nesterov="optional",
        equations=("v = μ·v + ε·d", "θ = θ - v", "Nesterov: Θ = Θ - μ·v - ε·d"),
        source="caffe/src/caffe/solvers/{sgd,nesterov}_solver.cpp; the seed's equation (3)",
    ),
    Convention(
        name="sutskever",
        title="(3'), with nesterov (6)(7)",
        lr="inside",
        sign="step",
        nesterov="optional",
        stores="iterate",
        equations=("v = μ·v - ε·d", "θ = θ + v", "Nesterov: d is taken at θ + μ·v"),
        source="Sutskever et al. 2013, On the importance of initialization and momentum",
    ),
    Convention(
        name="nag",
        title="equations (4)(5), Nesterov's own",
        lr="inside",
        sign="step",
        nesterov="always",
        momentum="next",
        equations=("θ' = y - ε·d", "y = θ' + μ_{t+1}·(θ' - θ)", "θ = θ'"),
        source="Nesterov 1983; the seed's equations (4) and (5)",
    ),
    Convention(
        name="bengio",
        title="equation (8), NAG stored as Θ",
        lr="inside",
        sign="step",
        nesterov="always",
        momentum="next",
        equations=("v' = μ_t·v - ε·d", "Θ = Θ + μ_{t+1}·μ_t·v - μ_{t+1}·ε·d - ε·d", "v = v'"),
        source="Bengio et al. 2012, Advances in optimizing recurrent networks, eq. (7)",
    ),
    Convention(
        name="bengio-lr-outside",
        title="equations (9)(10), ε outside",
        lr="outside",
        sign="gradient",
        nesterov="always",
        momentum="next",
        equations=("V = μ_{t+1}·(μ_t·v + d) + d", "Θ = Θ - ε·V", "v = μ_t·v + d"),
        source="the seed's equations (9) and (10)",
    ),
)

_BY_NAME = {row.name: row for row in _TABLE}


def list_conventions() -> tuple[Convention, ...]:
    """Return every convention: the table's rows, then those registered since.

    Example:
        >>> from sgdm import list_conventions
        >>> [row.name for row in list_conventions()][:3]
        ['torch', 'negated', 'caffe']
    """
    return tuple(_BY_NAME.values())


def get_convention(name: str) -> Convention:
    """Return the convention of that name.

    Raises:
        InvalidValueError: If there is none; the message names the nearest.

    Example:
        >>> from sgdm import get_convention
        >>> get_convention("nag").equations[0]
        "θ' = y - ε·d"
    """
    row = _BY_NAME.get(name)
    if row is not None:
        return row
    nearest = get_close_matches(str(name).lower(), _BY_NAME, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`sgdm conventions` lists them"
    raise InvalidValueError.of("convention", f"one of {', '.join(_BY_NAME)}", name, hint)


def register_convention(convention: Convention) -> None:
    """Add a convention of your own, for this process, under its name.

    A checkpoint records the name only: register the same record before you load it.

    Raises:
        InvalidValueError: If the name stands for another rule already.

    Example:
        >>> import sgdm
        >>> sgdm.register_convention(
        ...     sgdm.Convention(name="mine", title="lr inside, along the step",
        ...                     lr="inside", sign="step"))
        >>> sgdm.get_convention("mine").lr
        'inside'
    """
    if _BY_NAME.get(convention.name, convention) != convention:
        raise InvalidValueError.of(
            "name", "one that no other convention has", convention.name, "choose another name"
        )
    _BY_NAME[convention.name] = convention
