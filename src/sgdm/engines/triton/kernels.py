"""The kernels: one formula, `native/step.h`'s, over all tensors of a device in one launch.

Each program takes a block of one tensor's elements. Where the tensors are and what is done to them
is read from the device's memory, so that nothing is compiled anew where it changes: only the
combinations of dtypes are compiled in. They must be compiled with enable_fp_fusion=False, so that
no fused multiply-add appears beside those that are written here.
"""

# Triton compiles these functions; what their names are to Python says nothing about that.
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from triton import knobs

from sgdm.engines.triton import layout

__all__ = ["decide_kernel", "norm_kernel", "step_kernel"]

_BLOCK = tl.constexpr(layout.BLOCK)
_PROGRAMS_OF_NORM = tl.constexpr(layout.PROGRAMS_OF_NORM)

# What is asked of a step.
_SCALE = tl.constexpr(0)  # what the gradients are multiplied by
_MAX_NORM = tl.constexpr(1)  # infinity where they are not clipped
_CHECKS = tl.constexpr(2)  # whether NaN and infinity in a gradient are looked for
_HEAD = tl.constexpr(layout.HEAD)
# A rule.
_COUPLED_DECAY = tl.constexpr(0)
_RETAIN = tl.constexpr(1)
_GAIN = tl.constexpr(2)
_BUFFER_WEIGHT = tl.constexpr(3)
_GRADIENT_WEIGHT = tl.constexpr(4)
_KEEP = tl.constexpr(5)
_STEP = tl.constexpr(6)
_AVERAGE_WEIGHT = tl.constexpr(7)
_GOES_ON = tl.constexpr(8)  # whether there is a buffer already
_MAXIMIZES = tl.constexpr(9)
_ROW = tl.constexpr(layout.ROW)

# The facts about each tensor, in int64: a column of n for each.
_COUNT = tl.constexpr(0)
_FIRST_BLOCK = tl.constexpr(1)
_RULE = tl.constexpr(2)
_KIND = tl.constexpr(3)  # which of the combinations of dtypes
_BUFFER = tl.constexpr(4)  # the places of its addresses; where there is none, its parameter's
_AVERAGE = tl.constexpr(5)

# What a step tells.
_NORM = tl.constexpr(0)  # of the unscaled gradients; -1 where an overflow was found before
_COEFFICIENT = tl.constexpr(1)  # what the gradients are multiplied by, all in all
_SKIPPED = tl.constexpr(2)
_FINITE = tl.constexpr(3)
_NONFINITE = tl.constexpr(4)  # the first tensor that is not finite, or n
# What processes add up.
_SQUARE = tl.constexpr(layout.SUMS)  # of the norm of the gradients as they are
_BAD = tl.constexpr(layout.SUMS + 1)  # whether one of them is not finite
_FOUND = tl.constexpr(layout.SUMS + 2)  # whether an overflow was found before

# The interpreter converts to bfloat16 by cutting off.
_INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def _located(address, dtype: tl.constexpr, whole: tl.constexpr):
    """Return the pointer to a tensor, which is aligned to 16 bytes where its blocks are whole."""
    pointer = address.to(tl.pointer_type(dtype))
    if whole:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load(address, places, mask, dtype: tl.constexpr, whole: tl.constexpr):
    """Return elements as numbers of the arithmetic; the masked ones are anything."""
    if dtype == tl.bfloat16:
        bits = tl.load(_located(address, tl.int16, whole) + places, mask=mask)
        x = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = tl.load(_located(address, dtype, whole) + places, mask=mask)
        if dtype == tl.float16:
            x = x.to(tl.float32)
    return x


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """Round numbers of the arithmetic once to what is stored; of bfloat16, the bits."""
    if dtype == tl.bfloat16:
        if _INTERPRETED:
            bits = x.to(tl.uint32, bitcast=True)
            nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
            x = tl.where(is_nan, 0x7FC0, nearest).to(tl.int16)
        else:
            x = x.to(tl.bfloat16).to(tl.int16, bitcast=True)
    else:
        x = x.to(dtype)
    return x


@triton.jit
def _widened(stored, dtype: tl.constexpr):
    """Return what `_rounded` stored as numbers of the arithmetic."""
    if dtype == tl.bfloat16:
        x = (stored.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif dtype == tl.float16:
        x = stored.to(tl.float32)
    else:
        x = stored
    return x


@triton.jit
def _store(address, places, mask, stored, dtype: tl.constexpr, whole: tl.constexpr):
    if dtype == tl.bfloat16:
        tl.store(_located(address, tl.int16, whole) + places, stored, mask=mask)
    else:
        tl.store(_located(address, dtype, whole) + places, stored, mask=mask)


@triton.jit
def _negated_if(x, negates):
    """Turn the sign bit: a minus would be folded into the fma that follows, and spare NaN's."""
    if x.dtype == tl.float64:
        x = (x.to(tl.int64, bitcast=True) ^ (negates.to(tl.int64) << 63)).to(
            tl.float64, bitcast=True
        )
    else:
        x = (x.to(tl.int32, bitcast=True) ^ (negates.to(tl.int32) << 31)).to(
            tl.float32, bitcast=True
        )
    return x


@triton.jit
def _average(p, a, weight):
    """Move the average as torch.lerp does."""
    apart = p - a
    return tl.where(weight < 0.5, tl.fma(weight, apart, a), tl.fma(weight - 1.0, apart, p))


@triton.jit
def _step_block(
    p_address,
    g_address,
    b_address,
    a_address,
    begin,
    count,
    rule,
    scale,
    kind: tl.constexpr,
    whole: tl.constexpr,
):
    """Step a block of one tensor.

    d = fma(p, coupled_decay, ±round(scale * g))
    b = fma(d, gain, round(retain * b))        first step: b = gain * d
    u = fma(b, buffer_weight, round(gradient_weight * d))
    p = fma(u, step, round(keep * p))
    """
    p_type: tl.constexpr = kind[0]
    g_type: tl.constexpr = kind[1]
    b_type: tl.constexpr = kind[2]
    a_type: tl.constexpr = kind[3]
    wide: tl.constexpr = tl.float64 if p_type == tl.float64 else tl.float32

    places = tl.multiple_of(begin, _BLOCK) + tl.arange(0, _BLOCK)
    mask = None if whole else places < count

    # Which terms there are is decided by the numbers themselves, before they are rounded.
    coupled_decay = tl.load(rule + _COUPLED_DECAY)
    buffer_weight = tl.load(rule + _BUFFER_WEIGHT)
    gradient_weight = tl.load(rule + _GRADIENT_WEIGHT)
    negates = tl.load(rule + _MAXIMIZES).to(tl.int32)

    p = _load(p_address, places, mask, p_type, whole)
    g = _load(g_address, places, mask, g_type, whole)
    d = _negated_if(scale.to(wide) * g, negates)
    d = tl.where(coupled_decay != 0, tl.fma(p, coupled_decay.to(wide), d), d)
    u = gradient_weight.to(wide) * d
    if b_type is not None:
        # Where there is no buffer yet, nothing is read. The compiler is told that it is all or
        # nothing: so the accesses stay of 16 bytes.
        goes_on = tl.load(rule + _GOES_ON) != 0
        read = places < tl.where(goes_on, count, 0)
        if whole:
            read = tl.max_constancy(read, _BLOCK)
        b = _load(b_address, places, read, b_type, whole)
        gain = tl.load(rule + _GAIN).to(wide)
        b = tl.where(goes_on, tl.fma(d, gain, tl.load(rule + _RETAIN).to(wide) * b), gain * d)
        _store(b_address, places, mask, _rounded(b, b_type), b_type, whole)
        weight = buffer_weight.to(wide)
        both = tl.where(gradient_weight == 0, weight * b, tl.fma(b, weight, u))
        u = tl.where(buffer_weight == 0, u, both)
    kept = tl.load(rule + _KEEP).to(wide) * p
    p = _rounded(tl.fma(u, tl.load(rule + _STEP).to(wide), kept), p_type)
    _store(p_address, places, mask, p, p_type, whole)
    if a_type is not None:
        a = _load(a_address, places, mask, a_type, whole)
        weight = tl.load(rule + _AVERAGE_WEIGHT).to(wide)
        a = _average(_widened(p, p_type), a, weight)
        _store(a_address, places, mask, _rounded(a, a_type), a_type, whole)


@triton.jit
def _asked_scale(numbers, grad_scale):
    """Return what the gradients are multiplied by before they are clipped."""
    scale = tl.load(numbers + _SCALE)
    if grad_scale is not None:
        scale = 1.0 / tl.load(grad_scale).to(tl.float64)
    return scale


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["grad_scale", "found_inf"])
def step_kernel(
    addresses,
    gradients,
    facts,
    blocks,
    numbers,
    results,
    grad_scale,
    found_inf,
    n,
    kinds: tl.constexpr,
    is_decided: tl.constexpr,
):
    """Step everything, unless the step is skipped.

    Args:
        addresses: Of parameters, buffers and averages.
        gradients: The addresses of the gradients.
        facts: About each tensor.
        blocks: Whose block each program takes.
        numbers: What is asked, and the rules.
        results: What the step tells; None where nobody asks.
        grad_scale: Of GradScaler, or None.
        found_inf: Of GradScaler, or None.
        n: The number of tensors.
        kinds: The combinations of dtypes of parameter, gradient, buffer and average.
        is_decided: Whether `norm_kernel` has written the results.
    """
    block = tl.program_id(0)
    if is_decided:
        scale = tl.load(results + _COEFFICIENT)
        goes = tl.load(results + _SKIPPED) == 0
    else:
        scale = _asked_scale(numbers, grad_scale)
        goes = block >= 0
        if found_inf is not None:
            found = tl.load(found_inf).to(tl.float64)
            goes = found == 0
            if block == 0:
                tl.store(results + _SKIPPED, tl.where(goes, 0.0, 1.0).to(tl.float64))
    if goes:
        i = tl.load(blocks + block)
        count = tl.load(facts + _COUNT * n + i)
        begin = (block - tl.load(facts + _FIRST_BLOCK * n + i)) * _BLOCK
        rule = numbers + _HEAD + _ROW * tl.load(facts + _RULE * n + i)
        own_kind = tl.load(facts + _KIND * n + i)
        p = tl.load(addresses + i)
        g = tl.load(gradients + i)
        b = tl.load(addresses + tl.load(facts + _BUFFER * n + i))
        a = tl.load(addresses + tl.load(facts + _AVERAGE * n + i))
        whole = (((p | g | b | a) & 15) == 0) & (begin + _BLOCK <= count)
        for k in tl.static_range(len(kinds)):
            if own_kind == k:
                if whole:
                    _step_block(p, g, b, a, begin, count, rule, scale, kinds[k], True)
                else:
                    _step_block(p, g, b, a, begin, count, rule, scale, kinds[k], False)


@triton.jit
def _decide(numbers, results, grad_scale, square, bad, found):
    """Write what becomes of the step, from what is known of all gradients."""
    scale = _asked_scale(numbers, grad_scale)
    norm = tl.sqrt(square) * scale
    skips = (found != 0) | ((bad != 0) & (tl.load(numbers + _CHECKS) != 0))
    max_norm = tl.load(numbers + _MAX_NORM)
    ratio = max_norm / (norm + 1e-6)
    # NaN goes on, as in torch.
    scale = tl.where((max_norm < float("inf")) & ((ratio >= 1.0) == 0), scale * ratio, scale)
    tl.store(results + _NORM, tl.where(found != 0, -1.0, norm))
    tl.store(results + _COEFFICIENT, scale)
    tl.store(results + _SKIPPED, skips.to(tl.float64))
    tl.store(results + _FINITE, (bad == 0).to(tl.float64))


@triton.jit(do_not_specialize_on_alignment=["grad_scale"])
def decide_kernel(numbers, results, grad_scale):
    """Decide what becomes of the step again, from what the processes have added up.

    Args:
        numbers: What is asked.
        results: Where the sums are, and the decision is written.
        grad_scale: Of GradScaler, or None.
    """
    square, bad = tl.load(results + _SQUARE), tl.load(results + _BAD)
    _decide(numbers, results, grad_scale, square, bad, tl.load(results + _FOUND))


@triton.jit(
    do_not_specialize=["n", "blocks_in_all"],
    do_not_specialize_on_alignment=["grad_scale", "found_inf"],
)
def norm_kernel(
    gradients,
    facts,
    blocks,
    numbers,
    results,
    grad_scale,
    found_inf,
    n,
    blocks_in_all,
    squares,
    nonfinite,
    ticket,
    kinds: tl.constexpr,
):
    """Add the squares of all gradients up in float64, and decide what becomes of the step.

    Args:
        gradients: As `step_kernel` has them, and so is all that is not named here.
        facts: About each tensor.
        blocks: Whose each block is.
        numbers: What is asked, and the rules.
        results: Where the decision is written.
        grad_scale: Of GradScaler, or None.
        found_inf: Of GradScaler, or None.
        n: The number of tensors.
        blocks_in_all: How many blocks there are.
        squares: Room for each program's sum.
        nonfinite: Room for the first tensor that each program has found not to be finite.
        ticket: How many programs are done. 0 before and after.
        kinds: The combinations of dtypes.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    sums = tl.zeros((_BLOCK,), tl.float64)
    bad = tl.zeros((_BLOCK,), tl.int32) + n
    for block in range(program, blocks_in_all, programs):
        i = tl.load(blocks + block)
        count = tl.load(facts + _COUNT * n + i)
        begin = (block - tl.load(facts + _FIRST_BLOCK * n + i)) * _BLOCK
        own_kind = tl.load(facts + _KIND * n + i)
        g = tl.load(gradients + i)
        whole = ((g & 15) == 0) & (begin + _BLOCK <= count)
        places = tl.multiple_of(begin, _BLOCK) + tl.arange(0, _BLOCK)
        x = tl.zeros((_BLOCK,), tl.float64)
        for k in tl.static_range(len(kinds)):
            if own_kind == k:
                if whole:
                    x = _load(g, places, None, kinds[k][1], True).to(tl.float64)
                else:
                    mask = places < count
                    x = _load(g, places, mask, kinds[k][1], False).to(tl.float64)
                    x = tl.where(mask, x, 0.0)
        sums = tl.fma(x, x, sums)
        bad = tl.minimum(bad, tl.where(tl.abs(x) < float("inf"), n, i))
    tl.store(squares + program, tl.sum(sums))
    tl.store(nonfinite + program, tl.min(bad))
    # The last one to come adds all sums up, in their order. What the others have stored is seen: a
    # barrier, the release and acquire of the ticket, and loads that no cache near by answers.
    tl.debug_barrier()
    done = tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu")
    if done == programs - 1:
        every = tl.arange(0, _PROGRAMS_OF_NORM)
        own = every < programs
        all_squares = tl.load(squares + every, mask=own, other=0.0, volatile=True)
        all_bad = tl.load(nonfinite + every, mask=own, other=n, volatile=True)
        tl.store(ticket, 0)
        square = tl.sum(all_squares)
        first_bad = tl.min(all_bad)
        any_bad = (first_bad < n).to(tl.float64)
        found = 0.0 * any_bad
        if found_inf is not None:
            found = (tl.load(found_inf).to(tl.float64) != 0).to(tl.float64)
        tl.store(results + _NONFINITE, first_bad.to(tl.float64))
        tl.store(results + _SQUARE, square)
        tl.store(results + _BAD, any_bad)
        tl.store(results + _FOUND, found)
        _decide(numbers, results, grad_scale, square, any_bad, found)
