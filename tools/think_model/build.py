"""Fine-tune the thinking model from the shipped tiny model on generated traces.

    python tools/think_model/build.py --out src/scrpo_cli/assets/think-model

Seeded; on CPU with one thread it takes well under an hour. `measure.py` beside it fills in the model card.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

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
    parser.add_argument("--layers", type=int, help="a deeper model that begins as the same function")
    parser.add_argument("--world", nargs="*", default=[], metavar="RATE=VALUE", help="change rates of World")
    args = parser.parse_args()
    world = World(**{k: float(v) for k, v in (item.split("=") for item in args.world)})
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.init)
    model = AutoModelForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    if args.layers:
        deepen(model, args.layers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {world}", flush=True)
    pretrain(model, tokenizer, functools.partial(draw_conversation, world), args)
    save(model, tokenizer, args.out)
    (args.out / "world.json").write_text(json.dumps(dataclasses.asdict(world), indent=2) + "\n")


def deepen(model: Any, layers: int) -> None:
    """As many layers: copies of the old ones, spread evenly, that add nothing at first. A layer adds what its last two
    matrices give (attention's and the feed-forward's), and these are zero in a copy; their gradients are not.
    """
    old = model.model.layers
    sources = [i * len(old) // layers for i in range(layers)]
    if len(old) > layers or len(set(sources)) < len(old):
        raise SystemExit(f"--layers {layers}: the model has {len(old)} layers already")
    new = torch.nn.ModuleList()
    for place, source in enumerate(sources):
        layer = copy.deepcopy(old[source])
        layer.self_attn.layer_idx = place
        if source in sources[:place]:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        new.append(layer)
    model.model.layers = new
    model.config.num_hidden_layers = layers
    model.config.layer_types = [model.config.layer_types[source] for source in sources]


if __name__ == "__main__":
    main()
