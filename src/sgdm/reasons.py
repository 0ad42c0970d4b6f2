"""Why two conventions are not the same: the axes on which they differ, in words."""

from sgdm.identity import Identical, Side

__all__ = ["name_of", "reasons_of"]


def name_of(side: Side) -> str:
    """Return what a side is called."""
    return f"corrected {side.convention.name}" if side.corrected else side.convention.name


def reasons_of(a: Side, b: Side, identical: Identical, from_start: Identical) -> tuple[str, ...]:
    """Name the axes that make the difference."""
    names = name_of(a), name_of(b)
    told: list[str] = []
    if identical != "always":
        inside = [side.convention.lr == "inside" for side in (a, b)]
        if inside[0] != inside[1]:
            told.append(
                f"ε is inside the buffer of {names[inside.index(True)]}, whose history keeps the ε "
                f"it came with, and outside that of {names[inside.index(False)]}, where a changed "
                "ε acts on all of it at once"
            )
    describers = [] if identical == "always" else [_look, _gain, _index, _decay]
    if from_start != identical:
        describers.append(_start)
    for describe in describers:
        texts = [describe(side) for side in (a, b)]
        if texts[0] != texts[1]:
            told.append(f"{names[0]} {texts[0]}, {names[1]} {texts[1]}")
    return tuple(told)


def _start(side: Side) -> str:
    if side.convention.first == "copy":
        return "makes its first buffer a copy of the gradient"
    return "starts from a buffer of zeros"


def _look(side: Side) -> str:
    row = side.convention
    if row.nesterov == "never" or (row.nesterov == "optional" and not side.nesterov):
        return "does not look ahead"
    return {
        "momentum": "looks ahead by Nesterov's method",
        "two steps": "looks two steps ahead",
        "nu": "mixes buffer and gradient by ν",
    }[row.look_ahead]


def _gain(side: Side) -> str:
    row = side.convention
    if row.gain == "1-momentum":
        place = "the gradient when it enters the buffer"
        return f"multiplies {place if row.gain_at == 'buffer' else 'the whole step'} by 1 - μ"
    if side.dampening:
        return "multiplies the gradient when it enters the buffer by 1 - τ"
    return "lets the gradient into the buffer as it is"


def _index(side: Side) -> str:
    if side.convention.stores == "iterate" and side.nesterov:
        return "looks ahead with μ_{t+1}"
    return {
        "current": "steps with μ_t alone",
        "next": "looks ahead with μ_{t+1}",
        "previous": "decays its buffer by μ_{t-1}",
    }[side.convention.momentum]


def _decay(side: Side) -> str:
    if not side.weight_decay:
        return ""
    return {
        "coupled": "decays through the gradient, d = g + λ·θ",
        "lr": "keeps (1 - ε·λ)·θ",
        "lr/lr0": "keeps (1 - (ε/ε_0)·λ)·θ",
        "lr^2/lr0": "keeps (1 - (ε²/ε_0)·λ)·θ",
        "absolute": "keeps (1 - λ)·θ",
        "buffer": "decays through the buffer alone",
        "late": "decays through the buffer by the new θ",
    }[side.convention.weight_decay]
