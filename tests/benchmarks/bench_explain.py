"""How true explanations are on the starter: pointing, inside, "no single part", and deletion against others.

    python tests/benchmarks/bench_explain.py --n 200

Each method orders the cells of the picture; the answer's probability is read while they are hidden one after
the other, and the area under that curve is the lower the truer the order. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
from truths import Question, inside, lies_on, points_at, questions

import vlm_magic
from vlm_magic.explain.asking import Asker, outside_the_stores, swapped
from vlm_magic.explain.attention import attention_maps
from vlm_magic.explain.hiding import Cell, Grid, ground_of, hidden
from vlm_magic.explain.needed import Search
from vlm_magic.messages import Exchange, Settings

Order = Sequence[Cell]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--n", type=int, default=200, help="questions about objects, absent things and grounds"
    )
    parser.add_argument("--curves", type=int, default=60, help="questions whose deletion curves are measured")
    parser.add_argument("--model", default="starter", help="another folder with the starter's weights")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    engine = vlm_magic.load(asked.model)
    measure_objects(engine, asked.n, asked.curves)
    for kind in ("absent", "ground"):
        measure_nothing(engine, kind, asked.n)


def ask(engine: object, question: Question) -> Exchange | None:
    """The question with its answer; None where that is wrong."""
    session = vlm_magic.Session(engine)  # type: ignore[arg-type]
    reply = session.ask(question.scene.picture, question.text)
    return session.conversation.exchanges[0] if reply.text == question.answer else None


def measure_objects(engine: object, n: int, n_curves: int) -> None:
    began, right, pointed, hits, asked = time.process_time(), 0, 0, [], 0
    areas: dict[str, list[float]] = {}
    peaks: dict[str, list[bool]] = {}
    for question in islice(questions("object"), n):
        exchange = ask(engine, question)
        if exchange is None:
            continue
        right += 1
        assert exchange.reply is not None
        with outside_the_stores(engine):  # type: ignore[arg-type]
            asker = Asker(engine, exchange.turns[:1], exchange.reply, Settings())  # type: ignore[arg-type]
            search = Search(asker)
            needed = search.find(with_curve=False)
        asked += asker.n_questions
        pointed += points_at(needed, question)
        hits += [inside(needed, question)] if needed else []
        if right > n_curves:
            continue
        grid = Grid.of(exchange.pictures[0])
        orders: dict[str, Order] = {
            "needed (hiding windows)": [cell for _, cell in search.order()],
            "random": Random(right).sample(grid.cells, len(grid.cells)),
        }
        for layers, name in (("last", "attention, last layer"), ("mean", "attention, mean of layers")):
            attended = attention_maps(engine, exchange, layers=layers)[0]  # type: ignore[arg-type]
            weights = attended.weights
            peaks.setdefault(name, []).append(lies_on(attended.peak_px, question))
            orders[name] = sorted(
                (cell for cell in grid.cells if cell[0] < len(weights) and cell[1] < len(weights[0])),
                key=lambda cell: -weights[cell[0]][cell[1]],
            )
        with outside_the_stores(engine):  # type: ignore[arg-type]
            for name, order in orders.items():
                areas.setdefault(name, []).append(area(asker, grid, order))
    seconds = time.process_time() - began
    print(f"objects: {n} asked, {right} answered right")
    print(f"  points at the object {pointed / right:.3f}, inside {sum(hits) / len(hits):.3f}")
    print(f"  {asked / right:.0f} questions each, {seconds / right:.2f} CPU s each with curves")
    for name, found in peaks.items():
        print(f"  points at the object {sum(found) / len(found):.3f}  {name} ({len(found)})")
    for name, each in areas.items():
        print(f"  deletion AUC {sum(each) / len(each):.3f}  {name} ({len(each)})")


def area(asker: Asker, grid: Grid, order: Order) -> float:
    """The area under the answer's probability while the cells are hidden in this order, one at a time."""
    picture = asker.turns[0].pictures[0]
    ground = ground_of(picture.rgb)
    prompts = [
        swapped(asker.turns, {0: hidden(picture, grid, order[:k], ground)}) for k in range(len(order) + 1)
    ]
    held = [each.probability for each in asker.ask(prompts)]
    return sum((a + b) / 2 for a, b in pairwise(held)) / (len(held) - 1)


def measure_nothing(engine: object, kind: str, n: int) -> None:
    right, nothing = 0, 0
    for question in islice(questions(kind), n):  # type: ignore[arg-type]
        exchange = ask(engine, question)
        if exchange is None:
            continue
        right += 1
        assert exchange.reply is not None
        with outside_the_stores(engine):  # type: ignore[arg-type]
            asker = Asker(engine, exchange.turns[:1], exchange.reply, Settings())  # type: ignore[arg-type]
            nothing += not Search(asker).find(with_curve=False)
    print(f"{kind}: {n} asked, {right} answered right, no single part in {nothing / right:.3f}")


if __name__ == "__main__":
    main()
