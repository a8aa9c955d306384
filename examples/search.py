"""A small search: which settings do best on the validation set, and then the winner in full.

    python search.py

A space is a map from dotted keys of the recipe to what may be tried: `choice`, `uniform`,
`loguniform`, `integers`. Each trial is a short training of its own; those that fall behind are
stopped. The winner is written as an ordinary recipe. All lies in the folder where this runs.
"""

from pathlib import Path
from typing import Any

import raypose
from raypose import runtime, synthesis
from raypose.config import ClusterConfig
from raypose.data import packing

POSTURES = (
    "Downward-Facing_Dog_pose_or_Adho_Mukha_Svanasana_",
    "Plank_Pose_or_Kumbhakasana_",
    "Tree_Pose_or_Vrksasana_",
    "Warrior_II_Pose_or_Virabhadrasana_II_",
)
SPLITS = {"train": 250, "val": 50}
"""Split → pictures of each posture."""

# The classes, as cards: those of yoga82 know names, Sanskrit, and what the body does.
CLASSES = "name: four\nbase: yoga82\nclasses:\n" + "".join(f"  - {name}\n" for name in POSTURES)


def architecture(width: int) -> dict[str, Any]:
    """Return a model so small that it learns drawings from nothing: see first_model.py."""
    return {
        "embed_dim": width,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 48,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": width,
            "heads": 2,
            "layers": 1,
        },
    }


RECIPE = {
    "name": "searched",
    "data": {"train": "shards/train", "val": "shards/val", "taxonomy": "classes.yaml"},
    "model": {
        "backbone": "wide",
        "architectures": {"wide": architecture(64), "slim": architecture(32)},
    },
    "optim": {"method": "locked_text", "learning_rate": 5e-3, "epochs": 3, "batch_size": 32},
    "search": {
        # A search tries any key: learning rates by magnitude, models, captions, losses.
        "space": {
            "optim.learning_rate": {"loguniform": [1e-3, 1e-2]},
            "model.backbone": {"choice": ["wide", "slim"]},
            "captions.preset": {"choice": ["name", "photo"]},
        },
        "num_trials": 4,
        "max_concurrent": 2,  # at a time, one process each
        "grace_epochs": 1,  # that every trial gets before it may be stopped
        "finalists": 0,  # else the best are trained anew with several seeds, and compared
    },
}


def prepare() -> None:
    """Draw pictures and pack them; no picture is in two splits, since seeds are far apart."""
    Path("classes.yaml").write_text(CLASSES, encoding="utf-8")
    for number, (split, per_class) in enumerate(SPLITS.items()):
        if Path(f"shards/{split}/MANIFEST.json").exists():
            continue
        folder = Path("pictures", split)
        counts = dict.fromkeys(POSTURES, per_class)
        synthesis.synthesize(folder, counts, size=64, seed=1_000_000 * number)
        packing.build(str(folder), f"shards/{split}")


def main() -> None:
    """Search, then train the winner for longer."""
    prepare()
    # One Ray for all of it: slots for two trials, and one for what decodes their pictures.
    with runtime.connect(ClusterConfig(num_cpus=3)):
        result = raypose.search(RECIPE)

        print(f"\n{'score':>6}  {'epochs':>6}  values")
        for trial in sorted(result.trials, key=lambda trial: -(trial["score"] or 0)):
            score = f"{trial['score']:.3f}" if trial["score"] is not None else "failed"
            values = "  ".join(
                f"{key}={value:.2g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in trial["values"].items()
            )
            print(f"{score:>6}  {trial['epochs']:>6}  {values}")

        # The winner is a file that says what differs from the defaults. On the command line:
        # raypose train WINNER optim.epochs=5
        print(f"\n{result.recipe}:\n{Path(result.recipe).read_text(encoding='utf-8')}")
        run = raypose.train(result.recipe, {"optim.epochs": 5})
        print(
            f"{run.run_id}: validation balanced accuracy {run.metrics['val_balanced_accuracy']:.3f}"
        )
        print("it was chosen on these pictures: score it on others before you believe it")


if __name__ == "__main__":
    main()
