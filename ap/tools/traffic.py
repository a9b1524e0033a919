"""What the links between GPUs, and those between a GPU and its host, carry in the update of one step.

P below is the number of parameters (`Sizes.total`), which lie in n pieces, one a GPU; w is the width of a number of
--dtype in bytes.
"""
from __future__ import annotations

from ap.tools.flops import Sizes

LINK = 450e9  # *assumption*: bytes/s that a GPU receives while it sends as many; NVLink 4 of an H100 or H200
PCIE = 50e9  # *assumption*: bytes/s between a GPU and its host; PCIe 5.0 x16 has 64 GB/s a direction
HOST = 300e9  # *assumption*: bytes/s that a node's CPUs read and write; half of two sockets' 8 channels of DDR5-4800


def link_bytes(count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Bytes that a GPU receives (and sends) for the update of a step, at most; P parameters in n pieces.

        (n - 1) / n * P * (micro-batches * (w + w + 4) + w + w)

    A micro-batch gathers the weights forward and backward and reduces gradients in float32 (between the two passes the
    root stays gathered, which is not taken off here); pi_theta and pi_ref are gathered into the replica once.
    """
    return (n - 1) / n * count.total * (micro_batches * (2 * width + 4) + 2 * width)


def pcie_bytes(count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Bytes between a GPU and its host in the update of a step with --offload, both directions together.

        P / n * (micro-batches * (4 + 4 + 4) + w + w)

    A micro-batch takes its pieces to the GPU in float32 for the forward and for the backward pass, and brings the
    pieces of its gradients back. pi_theta and pi_ref go once into the replica, cast on the host.
    """
    return count.total / n * (micro_batches * 12 + 2 * width)


def host_bytes(count: Sizes, width: int, n: int, m: int, micro_batches: int) -> float:
    """Bytes that the host of m GPUs reads and writes in such an update: those of PCIe, and

        m * P / n * ((micro-batches - 1) * 12 + 40)

    A gradient is added to the one before: two read, one written. Then norm (4), clipping (8) and AdamW, which reads
    weight, gradient and moments and writes all but the gradient (28).
    """
    return m * pcie_bytes(count, width, n, micro_batches) + m * count.total / n * ((micro_batches - 1) * 12 + 40)


def weak_scaling(compute: float, count: Sizes, width: int, n: int, micro_batches: int) -> float:
    """Speed of a GPU among n, each with the work that one has alone: compute / (compute + link time).

    `compute`: seconds that a GPU needs for its micro-batches. The worst case, in which nothing overlaps; FSDP2 gathers
    the next layer while one computes, so the truth lies between this and 1. Waiting for the longest rollout is extra.
    """
    return compute / (compute + link_bytes(count, width, n, micro_batches) / LINK)
