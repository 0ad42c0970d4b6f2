"""How what the kernels read is laid out in the memory of the device, for both sides."""

__all__ = ["BLOCK", "HEAD", "PROGRAMS_OF_NORM", "RESULTS", "ROW", "SUMS"]

# Elements of a program. A tensor's last block is masked, and its accesses are not of 16 bytes: more
# elements would leave tensors of 1024 without a whole block.
BLOCK = 1024
# The norm's sums are added in an order that depends on this number alone, not on the chip.
PROGRAMS_OF_NORM = 1024

# The numbers, in float64, are what is asked of a step, and then a row for each part's rule.
HEAD = 3
ROW = 10
# What a step tells, in float64; the last of it processes add up.
RESULTS = 8
SUMS = 5
