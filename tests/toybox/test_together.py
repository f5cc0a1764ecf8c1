"""Several processes train as one."""

from pathlib import Path

import torch
from torch import nn

from toybox import together


def worker(rank: int, meeting_point: Path, out: Path) -> None:
    torch.set_num_threads(1)
    together.join(meeting_point, rank, 2)
    rows = together.own_part({"x": torch.arange(4.0)})["x"]
    p = nn.Parameter(torch.ones(2))
    (p.sum() * rows.mean()).backward()
    progress = together.average_gradients([p], 0.2 + 0.4 * rank)
    torch.save({"rows": rows, "grad": p.grad, "progress": progress}, out / f"{rank}.pt")
    together.leave()


def test_two_processes_share_a_batch_and_average_their_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (tmp_path / "meeting-point", tmp_path), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert sorted([*a["rows"].tolist(), *b["rows"].tolist()]) == [0, 1, 2, 3]
    assert torch.equal(a["grad"], b["grad"])
    assert a["grad"].tolist() == [1.5, 1.5]
    assert abs(a["progress"] - 0.4) < 1e-6
    assert a["progress"] == b["progress"]


def test_one_process_alone_keeps_all() -> None:
    p = nn.Parameter(torch.ones(2))
    p.sum().backward()
    assert together.average_gradients([p], 0.3) == 0.3
    assert together.own_part(torch.arange(3)).tolist() == [0, 1, 2]
    assert together.rank() == 0
