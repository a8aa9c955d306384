r"""A caption grammar of one's own: written, shown, proved, counted, and trained with.

    python own_captions.py

CLIP knows a class by sentences. A grammar says many of them at once:

    <field>       what the class's card says: name, sanskrit, parent, torso, legs, arms, …
    {a|b}         a choice        [a]  an option: a, or nothing
    {fixed: a|b}  who chooses: fixed the first, always; sample (the default) a draw for each class
                  and step in training, the first at evaluation; ensemble all of them at evaluation;
                  search the study

Only `train` below needs a model; all before it is text, and takes no time.
"""

from pathlib import Path

import raypose
from raypose import captions, synthesis
from raypose.captions import grammar, taxonomy
from raypose.captions.nodes import Node
from raypose.data import packing

GRAMMAR = (
    "{ensemble:a photo of a person in|someone {doing|holding}} <name>"
    "[, <sanskrit>][fixed:, weight on <support>]"
)
POSTURES = (
    "Downward-Facing_Dog_pose_or_Adho_Mukha_Svanasana_",
    "Plank_Pose_or_Kumbhakasana_",
    "Tree_Pose_or_Vrksasana_",
    "Warrior_II_Pose_or_Virabhadrasana_II_",
)
CLASSES = "name: four\nbase: yoga82\nclasses:\n" + "".join(f"  - {name}\n" for name in POSTURES)
RECIPE = {
    "name": "own-captions",
    "data": {"train": "shards/train", "val": "shards/val", "taxonomy": "classes.yaml"},
    "model": {
        "backbone": "small",  # so small that it learns drawings from nothing: see first_model.py
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
                    "context_length": 64,
                    "vocab_size": 49408,
                    "width": 64,
                    "heads": 2,
                    "layers": 1,
                },
            }
        },
    },
    "captions": {"grammar": GRAMMAR},
    "optim": {"method": "locked_text", "learning_rate": 5e-3, "epochs": 6, "batch_size": 32},
    "cluster": {"num_cpus": 3},  # slots for processes: one trains, others decode
}


def show(node: Node, classes: taxonomy.Taxonomy) -> None:
    """Print what the grammar says of one class."""
    print(f"grammar    {grammar.format_grammar(node)}")
    tree = next(card for card in classes.cards if card.id == "Tree_Pose_or_Vrksasana_")
    for text in captions.evaluation_captions(node, tree):
        print(f"evaluated  {text}")
    for step in range(3):  # a draw follows from seed, step and class, and nothing else
        print(f"trained    {captions.sample(node, tree, seed=0, step=step)}")
    print(f"in all     {captions.count(node, tree)} captions of {tree.name}")


def prove(node: Node, classes: taxonomy.Taxonomy) -> None:
    """Check the grammar on every class, before anything is trained by it."""
    captions.check(node, classes)  # no class without a caption, no two classes with the same one
    total = sum(captions.count(node, card) for card in classes.cards)
    print(f"holds      for {len(classes)} classes of {classes.name}: {total} captions")
    for branch, number in captions.coverage(node, classes):
        print(f"covers     {number:3} of {len(classes)} classes: {branch}")
    # A fault is one line that says where.
    for wrong in ("a person in <nmae>", "a person in a posture"):
        try:
            captions.check(captions.read(wrong), classes)
        except raypose.RayposeError as error:
            print(f"refused    {error}")
    # What a grammar gains, these must not: the bare name, a plain photo, words that mean nothing.
    for name, control in captions.controls(node, classes).items():
        (text, *_) = captions.evaluation_captions(control, classes.cards[0])
        print(f"control    {name}: {text}")


def train() -> None:
    """Train with the grammar for a while, on the four postures that are drawn."""
    Path("classes.yaml").write_text(CLASSES, encoding="utf-8")
    for number, (split, per_class) in enumerate({"train": 400, "val": 50}.items()):
        if not Path(f"shards/{split}/MANIFEST.json").exists():
            counts = dict.fromkeys(POSTURES, per_class)
            folder = Path("pictures", split)
            synthesis.synthesize(folder, counts, size=64, seed=1_000_000 * number)
            packing.build(str(folder), f"shards/{split}")
    run = raypose.train(RECIPE)
    print(f"trained    validation top-1 {run.metrics['val_top1']:.3f}")
    # To know what the grammar gains, train with each control too, with several seeds, on a model
    # that can read: raypose.train(RECIPE, {"captions.grammar": "<name>", "seed": 1})
    model = raypose.load(raypose.publish(RECIPE))
    for text in model.captions[POSTURES[1]]:  # a release carries its captions
        print(f"release    {model.release} says: {text}")


def main() -> None:
    """Go through it all."""
    # yoga82 has cards for 82 postures; classes of one's own come from `raypose taxonomy init`.
    classes = taxonomy.load("yoga82")
    node = captions.read(GRAMMAR)
    show(node, classes)
    prove(node, classes)
    train()


if __name__ == "__main__":
    main()
