"""Memory behind the rows of the KV cache: addresses for the longest conversation, memory for what a row holds.

The idea is vAttention's (arXiv 2405.04437): the cache stays one tensor, which kernels read in place, without a table of
pages and without kernels that know of one. Behind its addresses memory comes and goes in pages of some tokens:

    on a CPU    the system gives an anonymous mapping memory where it is written to; a row that is released, or that was
                exchanged for a shorter one, gives it back
    on a GPU    CUDA's virtual memory: pages are mapped where a row grows, and unmapped when it is released. All other
                addresses show one blank page of finite numbers, so that kernels may read and write behind the end of a
                row: attention with a mask reads all rows as far as the longest, and recorded steps have extra rows
    elsewhere   rows with memory for the longest conversation, as many as fit; a page is a whole row

`Pages` also decides who gets memory when there is too little (serve, admits): by counts of tokens alone, never by what
was measured, so the same calls decide the same.
"""
from __future__ import annotations

import mmap
import sys
import warnings
import weakref
from typing import Mapping, Protocol

import torch

from ap.devices.gpu import ALONE, PROMISED

TOKENS = 256  # *choice*: tokens of a page on a GPU, about: a row leaves half of one unused on the average
STALE = 1 / 8  # *choice*: share of what a row holds on a CPU that it may keep beyond that
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # Linux's MAP_NORESERVE, which Python knows from 3.13 on


class Pages:
    """Rows that share memory for `room` tokens, given in pages of `page` tokens. This class counts, and moves data.

    store: (rows, layers, 2, kv heads, length, D), with memory where a row holds it.
    """

    def __init__(self, store: torch.Tensor, page: int, room: int):
        self.store, self.page, self.length = store, page, store.shape[4]
        self.room = max(room // page * page, self.need(self.length))  # one conversation always fits
        self.held = [0] * len(store)  # tokens that each row has memory for: whole pages

    def need(self, tokens: int) -> int:
        """Tokens of the whole pages that so many tokens of a row take; no row has more than `length`."""
        return -(-min(tokens, self.length) // self.page) * self.page

    def hold(self, row: int, tokens: int) -> bool:
        """Give a row memory for its first `tokens` tokens, if there is as much; was there?"""
        more = self.need(tokens) - self.held[row]
        if more > self.room - sum(self.held):
            return False
        if more > 0:
            self._grow(row, self.held[row] + more)
            self.held[row] += more
        return True

    def release(self, row: int) -> None:
        """Take all memory of a row."""
        if self.held[row]:
            self._empty(row)
            self.held[row] = 0

    def swap(self, a: int, b: int, of_a: int, of_b: int) -> None:
        """Exchange two rows with their memory. Of theirs, the first of_a and of_b tokens are of use."""
        one, other = self.store[a], self.store[b]
        kept = one[..., :of_a, :].clone()
        one[..., :of_b, :] = other[..., :of_b, :]
        other[..., :of_a, :] = kept
        self.held[a], self.held[b] = self.held[b], self.held[a]

    def _grow(self, row: int, tokens: int) -> None:
        """See to it that there is memory for a row's first tokens, whole pages."""

    def _empty(self, row: int) -> None:
        """Give back what a row holds."""

    # ------------------------------------------------------------------------------------------ who gets memory

    def serve(self, going: Mapping[int, int]) -> list[int]:
        """Give memory to the rows that go on. Returns the rows that have none now: who lost it, and who got none.

        going: {row: tokens that it must have memory for to go on}; other rows may hold some and wait. Rows that hold
        memory get what they lack, the shortest first; when it runs out, the rows that hold most lose theirs. Then those
        without get some, as far as `claims` leaves room. One row goes on in any case, so everybody's turn comes: the
        shortest of those that hold memory, or if none does, the shortest of all.
        """
        if all(self.held[row] >= tokens for row, tokens in going.items()):
            return []
        begun = sorted((row for row in going if self.held[row]), key=lambda row: (going[row], row))
        first, lost = min(going, key=lambda row: (not self.held[row], going[row], row)), []
        for row in begun or [first]:
            while row not in lost and not self.hold(row, going[row]):
                longest = max((row for row, held in enumerate(self.held) if held and row != first),
                              key=lambda row: (self.held[row], row))
                self.release(longest)
                lost.append(longest)
        claimed = self.claims({row: tokens for row, tokens in going.items() if self.held[row]})
        for row, tokens in going.items():
            if not self.held[row] and row not in lost:
                claimed += self.need(tokens + self.page)
                if claimed > self.room or not self.hold(row, tokens):
                    claimed -= self.need(tokens + self.page)
                    lost.append(row)
        return lost

    def admits(self, going: Mapping[int, int], tokens: int) -> bool:
        """Is there room for one more conversation of so many tokens beside those that go on (see serve)?

        Always if it is the only one, if it needs no memory because it has no room to go on, and if all rows may have
        full length.
        """
        if tokens >= self.length or self.need(self.length) * len(self.held) <= self.room:
            return True
        claimed = self.claims(going)
        return not claimed or claimed + self.need(tokens + self.page) <= self.room

    def claims(self, going: Mapping[int, int]) -> int:
        """Tokens of memory that are spoken for: *choice*: a page more than needed for each row that goes on, so that
        who has just come is not the first to go; and what others hold."""
        return (sum(self.need(tokens + self.page) for tokens in going.values())
                + sum(held for row, held in enumerate(self.held) if row not in going))


class Resident(Pages):
    """On a CPU: a mapping that takes memory where it is written to. A page is as many tokens of one head as fill a page
    of the system."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, room: int):
        rows, *block, length, dim = shape
        self.token = dim * dtype.itemsize  # bytes of a token of one head
        self.block = length * self.token
        self.row = -(-torch.Size(block).numel() * self.block // mmap.PAGESIZE) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, max(1, rows) * self.row, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would take memory for thousands of tokens at once
            self.map.madvise(mmap.MADV_NOHUGEPAGE)
        inner = torch.empty(shape[1:], device="meta").stride()
        numbers = torch.frombuffer(self.map, dtype=dtype)
        store = numbers.as_strided(shape, (self.row // dtype.itemsize, *inner))
        self.most = [0] * rows  # tokens that each row has held since it was empty
        super().__init__(store, min(length, max(1, mmap.PAGESIZE // self.token)), room)

    def _grow(self, row: int, tokens: int) -> None:
        self.most[row] = max(self.most[row], tokens)

    def _empty(self, row: int) -> None:
        self.map.madvise(mmap.MADV_DONTNEED, row * self.row, self.row)
        self.most[row] = 0

    def swap(self, a: int, b: int, of_a: int, of_b: int) -> None:
        super().swap(a, b, of_a, of_b)
        for row in (a, b):
            held = self.held[row]
            self._grow(row, held)
            if not held:
                self._empty(row)
            elif self.most[row] > held * (1 + STALE):
                self._cut(row, held)

    def _cut(self, row: int, tokens: int) -> None:
        """Give back the memory behind a row's first tokens, block by block."""
        for start in range(row * self.row, (row + 1) * self.row - self.block + 1, self.block):
            begin = -(-(start + tokens * self.token) // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (start + self.block) // mmap.PAGESIZE * mmap.PAGESIZE
            if begin < end:
                self.map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        self.most[row] = tokens


class Driver(Protocol):
    """The calls of CUDA's virtual memory that Mapped needs. Addresses and sizes are bytes."""

    granularity: int  # all sizes are multiples of it

    def reserve(self, size: int) -> int: ...  # addresses without memory
    def free(self, at: int, size: int) -> None: ...  # addresses that were reserved
    def create(self, size: int) -> object: ...  # memory without an address
    def release(self, memory: object) -> None: ...
    def map(self, at: int, size: int, memory: object) -> None: ...  # at addresses where nothing is mapped
    def unmap(self, at: int, size: int) -> None: ...
    def wait(self) -> None: ...  # for all work that was started
    def tensor(self, owner: object, at: int, size: int) -> torch.Tensor: ...  # of bytes; keeps the owner alive


class Cuda:
    """These calls, by the bindings that PyTorch's builds for CUDA bring. Raises where they are missing or refuse."""

    def __init__(self, device: torch.device):
        from cuda.bindings import driver

        self.api, self.stream = driver, torch.cuda.current_stream(device)
        torch.zeros(1, device=device)  # PyTorch makes the context
        self.kind, self.access = driver.CUmemAllocationProp(), driver.CUmemAccessDesc()
        self.kind.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self.kind.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self.kind.location.id = self.stream.device.index
        self.access.location = self.kind.location
        self.access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self.granularity = self._call("cuMemGetAllocationGranularity", self.kind,
                                      driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM)

    def _call(self, name: str, *arguments):
        error, *found = getattr(self.api, name)(*arguments)
        if error != self.api.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{name}: {error.name}")
        return found[0] if found else None

    def reserve(self, size: int) -> int:
        return int(self._call("cuMemAddressReserve", size, 0, 0, 0))

    def free(self, at: int, size: int) -> None:
        self._call("cuMemAddressFree", at, size)

    def create(self, size: int) -> object:
        try:
            return self._call("cuMemCreate", size, self.kind, 0)
        except RuntimeError:  # PyTorch may keep blocks that it does not use
            torch.cuda.empty_cache()
            return self._call("cuMemCreate", size, self.kind, 0)

    def release(self, memory: object) -> None:
        self._call("cuMemRelease", memory)

    def map(self, at: int, size: int, memory: object) -> None:
        self._call("cuMemMap", at, size, 0, memory, 0)
        self._call("cuMemSetAccess", at, size, [self.access], 1)

    def unmap(self, at: int, size: int) -> None:
        self._call("cuMemUnmap", at, size)

    def wait(self) -> None:
        self.stream.synchronize()

    def tensor(self, owner: object, at: int, size: int) -> torch.Tensor:
        owner.__cuda_array_interface__ = {  # PyTorch keeps the owner as long as a tensor
            "shape": (size,), "typestr": "|u1", "data": (at, False), "strides": None, "version": 3}
        return torch.as_tensor(owner, device=self.stream.device)


class _Range:
    """Addresses of a GPU, all mapped: a blank page everywhere at first. All is given back with the last tensor on them.

    at: the first address. memory: all pages that were created, the blank one first.
    """

    def __init__(self, driver: Driver, count: int, size: int):
        self.at, self.memory, mapped = driver.reserve(count * size), [], []
        give_back = weakref.finalize(self, _give_back, driver, self.at, count * size, size, self.memory, mapped)
        give_back.atexit = False  # CUDA may be gone by then, and with it all that it gave
        try:
            self.memory.append(driver.create(size))
            for address in range(self.at, self.at + count * size, size):
                driver.map(address, size, self.memory[0])
                mapped.append(address)
        except Exception:
            give_back()
            raise


def _give_back(driver: Driver, at: int, total: int, size: int, memory: list, mapped: list) -> None:
    with ALONE:
        driver.wait()
        for address in mapped:
            driver.unmap(address, size)
        for page in memory:
            driver.release(page)
        driver.free(at, total)


class Mapped(Pages):
    """On a GPU: pages are mapped where rows hold memory. An exchange of two rows exchanges their pages, and no data.

    *Choice*: the keys and values of a token in all layers and heads lie side by side, (rows, length, layers, 2, heads,
    D), so that a page serves few tokens; `store` is a view of it. Kernels take any strides, if only that of D is 1.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, room: int, driver: Driver):
        rows, layers, _, heads, length, dim = shape
        numbers = layers * 2 * heads * dim  # of a token
        if length * numbers >= 1 << 31:  # PyTorch's attention counts them in 32 bits within a row
            raise RuntimeError("rows are too long for kernels that count in 32 bits")
        token = numbers * dtype.itemsize
        self.size = -(-min(TOKENS, length) * token // driver.granularity) * driver.granularity  # bytes of a page
        page = min(length, self.size // token)
        self.row, self.driver = -(-length // page) * self.size, driver  # bytes from one row to the next
        owner = _Range(driver, max(1, rows) * self.row // self.size, self.size)
        self.at, self.memory = owner.at, owner.memory
        self.bytes = driver.tensor(owner, owner.at, max(1, rows) * self.row)
        self.bytes[:self.size].zero_()  # the blank page
        self.pages: list[list] = [[] for _ in range(rows)]  # of each row
        self.spare: list = []  # pages of no row
        strides = (self.row // dtype.itemsize, 2 * heads * dim, heads * dim, dim, numbers, 1)
        super().__init__(self.bytes.view(dtype).as_strided(shape, strides), page, room)
        self._promise()

    def _promise(self) -> None:
        """Say how much memory the rows may still take, for others that ask what is free."""
        PROMISED[self] = self.room // self.page * self.size - (len(self.memory) - 1) * self.size

    def _grow(self, row: int, tokens: int) -> None:
        before, count = self.pages[row], tokens // self.page
        with ALONE:
            while len(before) + len(self.spare) < count:
                self.spare.append(self.driver.create(self.size))
                self.memory.append(self.spare[-1])
            self._promise()
            self._put(row, before + [self.spare.pop() for _ in range(count - len(before))])
        self.bytes[row * self.row + len(before) * self.size:row * self.row + count * self.size].zero_()

    def _empty(self, row: int) -> None:
        self.spare += self.pages[row]
        with ALONE:
            self._put(row, [])

    def swap(self, a: int, b: int, of_a: int, of_b: int) -> None:
        pages = self.pages[a], self.pages[b]
        with ALONE:
            self._put(a, pages[1])
            self._put(b, pages[0])
        self.held[a], self.held[b] = self.held[b], self.held[a]

    def _put(self, row: int, pages: list) -> None:
        """Map these pages from the row's first address on, and the blank one where it had more of them."""
        self.driver.wait()  # what runs may still use what is unmapped
        before, blank = self.pages[row], self.memory[0]
        for n in range(max(len(before), len(pages))):
            old, new = (some[n] if n < len(some) else blank for some in (before, pages))
            if old is not new:
                at = self.at + row * self.row + n * self.size
                self.driver.unmap(at, self.size)
                self.driver.map(at, self.size, new)
        self.pages[row] = pages


def pages_for(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, budget: int) -> Pages:
    """Pages for rows of the shape (rows, layers, 2, kv heads, length, D), with so many bytes of memory for all of them.

    The budget must suffice for one row. Where addresses cannot be had without memory, there are fewer rows.
    """
    of_row = torch.Size(shape[1:]).numel() * dtype.itemsize
    room = budget * shape[4] // of_row
    try:
        return Resident(shape, dtype, room) if device.type == "cpu" else Mapped(shape, dtype, room, Cuda(device))
    except Exception as error:  # no bindings, an old driver, a system that grants no more addresses than memory
        warnings.warn(f"each row of the KV cache takes memory for its full length ({type(error).__name__}: {error})")
    store = torch.zeros(min(shape[0], budget // of_row), *shape[1:], dtype=dtype, device=device)
    return Pages(store, shape[4], len(store) * shape[4])
