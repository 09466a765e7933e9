"""Fine-tune the thinking model from the shipped tiny model on generated traces.

    python tools/think_model/build.py --out src/scrpo_cli/assets/think-model

Seeded; on CPU with one thread it takes well under an hour. `measure.py` beside it fills in the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path

import torch
from think_traces import World, draw_conversation
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).parents[1] / "tiny_model"))
from pretraining import pretrain, save

TINY = Path(__file__).parents[2] / "src" / "scrpo_cli" / "assets" / "tiny-model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, default=TINY, help="the model to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--world", nargs="*", default=[], metavar="RATE=VALUE", help="change rates of World")
    args = parser.parse_args()
    world = World(**{k: float(v) for k, v in (item.split("=") for item in args.world)})
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.init)
    model = AutoModelForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {world}", flush=True)
    pretrain(model, tokenizer, functools.partial(draw_conversation, world), args)
    save(model, tokenizer, args.out)
    (args.out / "world.json").write_text(json.dumps(dataclasses.asdict(world), indent=2) + "\n")


if __name__ == "__main__":
    main()
