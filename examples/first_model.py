"""A first model: from a folder of pictures to answers, in a minute.

    python first_model.py             # draws its own pictures
    python first_model.py PHOTOS      # a folder that holds a folder of pictures for each class

All that it makes lies in the folder where it runs: shards/, raypose-data/. Run again, it finds what
is done already and only answers.
"""

import sys
from pathlib import Path

import raypose
from raypose import runtime, synthesis
from raypose.captions import taxonomy
from raypose.config import ClusterConfig
from raypose.data import inspection, packing, splits

# A model so small that it learns drawings from nothing, on a laptop. For photographs take one that
# has seen many: no "architectures", and "backbone": "ViT-B-32-256/datacomp_s34b_b86k".
MODEL = {
    "backbone": "small",
    "architectures": {
        "small": {
            "embed_dim": 64,
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
                "width": 64,
                "heads": 2,
                "layers": 1,
            },
        }
    },
}

# A recipe says what differs from the defaults; `raypose config` lists every key. The same document
# as a YAML file is what `raypose train` takes.
RECIPE = {
    "name": "postures",
    "data": {"train": "shards/train", "val": "shards/val", "taxonomy": "classes.yaml"},
    "model": MODEL,
    # The image tower learns to meet the captions where they are.
    "optim": {"method": "locked_text", "learning_rate": 5e-3, "epochs": 8, "batch_size": 32},
}


POSTURES = (
    "Downward-Facing_Dog_pose_or_Adho_Mukha_Svanasana_",
    "Plank_Pose_or_Kumbhakasana_",
    "Tree_Pose_or_Vrksasana_",
    "Warrior_II_Pose_or_Virabhadrasana_II_",
)


def draw(folder: Path) -> None:
    """Draw four postures, each in a folder of its own: the form that your photographs have too."""
    if not folder.is_dir():
        synthesis.synthesize(folder, dict.fromkeys(POSTURES, 400), size=64)


def prepare(pictures: Path) -> None:
    """Make class cards, and pack the pictures into shards for training and validation."""
    if Path("shards/val/MANIFEST.json").exists():
        return
    # The cards name the classes. Read them over: captions are made of these names.
    cards = taxonomy.from_folders(str(pictures))
    Path("classes.yaml").write_text(taxonomy.format_taxonomy(cards), encoding="utf-8")
    # Shards are Parquet files, read in order however many pictures there are.
    packed = packing.build(str(pictures), "shards/all", overwrite=True)
    print(f"packed {packed.num_rows} pictures of {len(packed.labels)} classes")
    # A fifth of every class is kept for validation; near-duplicates stay on one side, since a
    # picture whose twin was trained on would prove nothing.
    rows = inspection.inspect(["shards/all"])
    split = splits.assign(rows, inspection.cluster(rows), shares={"val": 0.2})
    splits.write("shards/all", "shards", split, packing.Packing(), overwrite=True)
    print(f"split into {split.counts()}")


def main() -> None:
    """Run it all."""
    pictures = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
    if len(sys.argv) < 2:
        draw(pictures)
    prepare(pictures)

    # Each of raypose's functions starts Ray where it needs it; held here, it is started once.
    # num_cpus are slots for processes: one that trains, some that decode.
    with runtime.connect(ClusterConfig(num_cpus=3)):
        run = raypose.train(RECIPE)
        print(f"{run.run_id}: validation top-1 {run.metrics['val_top1']:.3f}")

        # A release is what others use: weights, classes, captions, figures, and a card.
        release = raypose.publish(RECIPE)
        model = raypose.load(release)
        print(model)
        figures = raypose.evaluate(model, "shards/val")
        low, high = figures["intervals"]["top1"]
        print(f"top-1 {figures['top1']:.3f}, 95 % interval {low:.3f} to {high:.3f}")

    # To classify, Ray is not needed. A picture is a path, bytes, a picture of Pillow's or an array;
    # one that cannot be read has an error for an answer.
    some = sorted(path for path in pictures.glob("*/*") if path.is_file())[::230]
    found = model.predict([*some, b"no picture"], abstain_below=0.5)
    print(found)
    print(f"the first is most like {found[0].top[0].name}, at {found[0].probability:.0%}")


if __name__ == "__main__":
    main()
