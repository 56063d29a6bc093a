"""Where a cache that training reads all the time lives: on the GPU, in memory, or as a memory-mapped file on disk."""

import torch

from common.distributed import ranks
from common.parallel import free_memory

PLACES = ("gpu", "ram", "disk")  # the nearest first


def choose_place(size: int, wanted: str, device: torch.device) -> tuple[str, str]:
    """(the place for a cache of `size` bytes, one of `PLACES`; the same in words, with why it is not nearer).

    wanted: the nearest place to consider, 'auto' for all. What takes more than half of what is free there goes to the
    next one; the ranks of a machine share its memory.
    """
    why = ""
    for place in PLACES[PLACES.index(wanted) if wanted in PLACES else 0 : -1]:
        if place == "gpu" and device.type != "cuda":
            why = "no GPU" if wanted == "gpu" else ""
            continue
        free = torch.cuda.mem_get_info(device)[0] if place == "gpu" else free_memory() // ranks.ranks_here()
        if size < free / 2:
            return place, {"gpu": "GPU memory", "ram": "memory"}[place] + (f" ({why})" if why else "")
        holder = "the GPU" if place == "gpu" else "memory"
        why = f"{size / 2**30:.1f} GiB, and {holder} has {free / 2**30:.1f} GiB free"
    return "disk", "a memory-mapped file" + (f" ({why})" if why else "")
