"""The table of conventions: one row a rule; the seed's first, in its order.

Rows hold rules, never defaults of hyperparameters.
"""

from difflib import get_close_matches

from sgdm.convention import Convention
from sgdm.errors import InvalidTypeError, InvalidValueError
from sgdm.frameworks import classic, current, papers, pytorch, seed, tensorflow_jax

__all__ = ["get_convention", "list_conventions", "register_convention"]

_TABLE = (
    *seed.ROWS,
    *papers.ROWS,
    *pytorch.ROWS,
    *tensorflow_jax.ROWS,
    *current.ROWS,
    *classic.ROWS,
)
_BY_NAME = {row.name: row for row in _TABLE}
_ALIASES = {alias: row.name for row in _TABLE for alias in row.aliases}

# Names that stand for several rules, and what to say instead.
_AMBIGUOUS = {
    "sgdw": "four scalings of the decay have that name: 'timm' keeps 1 - ε·λ, 'timm-corrected' "
    "1 - (ε²/ε_0)·λ, 'composer' 1 - (ε/ε_0)·λ, and weight_decay_mode='absolute' 1 - λ",
}


def list_conventions() -> tuple[Convention, ...]:
    """Return every convention: the table's rows, then those registered since.

    Example:
        >>> from sgdm import list_conventions
        >>> [row.name for row in list_conventions()][:3]
        ['torch', 'negated', 'caffe']
    """
    return tuple(_BY_NAME.values())


def get_convention(name: str) -> Convention:
    """Return the convention of that name or alias.

    Raises:
        InvalidTypeError: If it is no string.
        InvalidValueError: If there is none, or several; the message names the nearest.

    Example:
        >>> from sgdm import get_convention
        >>> get_convention("nag").equations[0]
        "θ' = y - ε·d"
        >>> get_convention("keras").name
        'keras3'
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTypeError.of("convention", "a name", name, "`sgdm conventions` lists them")
    row = _BY_NAME.get(name) or _BY_NAME.get(_ALIASES.get(name, ""))
    if row is not None:
        return row
    lowered = name.lower()
    nearest = get_close_matches(lowered, [*_BY_NAME, *_ALIASES], n=2, cutoff=0.6)
    hint = "`sgdm conventions` lists them"
    if lowered in _AMBIGUOUS:
        hint = _AMBIGUOUS[lowered]
    elif nearest:
        hint = f"did you mean {' or '.join(map(repr, nearest))}? {hint}"
    raise InvalidValueError.of("convention", "the name of a convention", name, hint)


def register_convention(convention: Convention) -> None:
    """Add a convention of your own, for this process, under its name.

    A checkpoint records the name only: register the same record before you load it.

    Raises:
        InvalidValueError: If a name stands for another rule already.

    Example:
        >>> import sgdm
        >>> sgdm.register_convention(
        ...     sgdm.Convention(name="mine", title="lr inside, along the step",
        ...                     lr="inside", sign="step"))
        >>> sgdm.get_convention("mine").lr
        'inside'
    """
    for name in (convention.name, *convention.aliases):
        known = _BY_NAME.get(name) or _BY_NAME.get(_ALIASES.get(name, ""))
        if name in _AMBIGUOUS or known not in (None, convention):
            raise InvalidValueError.of(
                "name", "one that no other convention has", name, "choose another name"
            )
    _BY_NAME[convention.name] = convention
    _ALIASES.update(dict.fromkeys(convention.aliases, convention.name))
