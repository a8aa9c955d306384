"""After training: the best checkpoint, mixed with what it came from, and its temperature.

What validation says is best goes to ``RUN/final``: open_clip's model, the captions' features or the
fitted head, and final.json, written last. A release is made of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raypose import captions, metrics, storage
from raypose.captions import taxonomy
from raypose.clip import batch_norm, model, tokens, zeroshot
from raypose.clip.towers import Towers, share_buffers
from raypose.config import Config, override
from raypose.training import checkpoint, optim
from raypose.training.context import WorkerContext, gather, note
from raypose.training.costs import COSTS, added
from raypose.training.scorer import Scorer, val_figures

__all__ = ["FINAL", "finish", "mixed", "url_of"]

FINAL = "final.json"
OF_AN_EPOCH = (
    "train_s", "val_s", "checkpoint_s", "learning_rate", "gradient_norm", "logit_scale",
    "skipped_steps", *COSTS,
)  # fmt: skip
"""What says how an epoch went, and nothing of the model."""
REFRESHED = 32
"""Batches that BatchNorm's statistics are taken from after mixing."""


def url_of(run_url: str) -> str:
    """Return where a run's final model lies."""
    return storage.join(run_url, "final")


def finish(config: Config, context: WorkerContext, *, run_url: str) -> None:
    """Choose mixing weight and temperature on the validation set; write the final model.

    Ranks go together. Without a validation set the last checkpoint is taken as it is.

    Source: Wortsman et al., 2022, equation 1 (weights mixed over both towers); Guo et al., 2017
    (one temperature by likelihood).
    """
    state = checkpoint.best(checkpoint.complete(run_url))
    clip, saved = checkpoint.restore(run_url, state)
    last = config.model.channels_last
    model.place(clip, context.device, channels_last=last).eval()
    torch.set_float32_matmul_precision("highest")  # training's is lower on a GPU than a release's
    scorer = Scorer(
        override(config, {"train.precision": "fp32"}),  # for captions
        context,
        clip,
        Towers(clip.model),
        taxonomy.load(config.data.taxonomy),
        captions.load(config.captions),
        head=saved.get("head"),
        final=True,  # as a release computes: its own figures
    )
    outcome: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "alpha": 1.0}
    outcome["metrics"] = {k: v for k, v in state.metrics.items() if k not in OF_AN_EPOCH}
    if config.data.val:
        chosen = _choose(scorer, _alphas(config))
        outcome["metrics"] |= chosen.pop("figures")
        outcome |= chosen
    outcome["costs"] = added(gather(context, context.costs.taken()))
    trained = clip.model.logit_scale.exp().item()
    outcome.setdefault("logit_scale", trained)
    outcome["trained_logit_scale"] = trained
    if context.rank == 0:
        _write(scorer, outcome, run_url=run_url)
        text = f"kept epoch {state.epoch}, alpha {outcome['alpha']:g}"
        scale = f"logit scale {outcome['logit_scale']:.1f} where training ended at {trained:.1f}"
        if "calibration" in outcome:
            scale = f"{scale} ({outcome['calibration']})"
        note(context, f"{text}, {scale}")


def mixed(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Return (1 - alpha) of the weights before and alpha of those after; whole numbers as after."""
    return {
        name: torch.lerp(before[name].to(value.device), value, alpha)
        if value.is_floating_point()
        else value
        for name, value in after.items()
    }


def _alphas(config: Config) -> list[float]:
    """Return the mixing weights to try, 1 first: alone where a model came without weights."""
    if config.optim.method == "probe" or not model.has_weights(config.model):
        return [1.0]
    return sorted({1.0, *config.train.wise_alphas}, reverse=True)


def _choose(scorer: Scorer, alphas: list[float]) -> dict[str, Any]:
    """Leave the model at the best mixing weight; return what was tried, and the temperature."""
    clip, config = scorer.clip, scorer.config
    after = {name: value.clone() for name, value in clip.model.state_dict().items()}
    before = model.build(config.model, seed=config.seed).model.state_dict() if alphas[1:] else {}
    tried, best = [], None
    for alpha in alphas:
        if alpha < 1:
            clip.model.load_state_dict(mixed(before, after, alpha))
            _refresh_statistics(scorer)
        features, targets = scorer.embedded("val")
        cosines = features @ scorer.classifier().cpu().T
        scale = clip.model.logit_scale.exp().item()
        probabilities, true = (scale * cosines).softmax(-1).numpy(), targets.numpy()
        counts = metrics.confusion_matrix(
            true, probabilities.argmax(1), num_classes=probabilities.shape[1]
        )
        nll = metrics.nll(probabilities, true) * len(true)
        figures = val_figures(counts, metrics.top_k_hits(probabilities, true, 5), nll)
        tried.append({"alpha": alpha, **figures})
        if best is None or figures["val_balanced_accuracy"] > best[0]["val_balanced_accuracy"]:
            best = (tried[-1], cosines, targets, scale)
    assert best is not None
    chosen, cosines, targets, scale = best
    if alphas[1:]:
        clip.model.load_state_dict(mixed(before, after, chosen["alpha"]))
        if chosen["alpha"] < 1:
            _refresh_statistics(scorer)
    fitted = zeroshot.best_scale(cosines, targets, start=scale) if len(targets) else scale
    how = "fitted to val, near the trained" if fitted != scale else "kept: val sets it no bound"
    calibrated = metrics.nll((fitted * cosines).softmax(-1).numpy(), targets.numpy())
    return {
        "alpha": chosen["alpha"],
        "alphas": tried,
        "logit_scale": fitted,
        "calibration": how,
        "uncalibrated_val_nll": chosen["val_nll"],
        "figures": {**{k: v for k, v in chosen.items() if k != "alpha"}, "val_nll": calibrated},
    }


@torch.no_grad()
def _refresh_statistics(scorer: Scorer) -> None:
    """Take BatchNorm's statistics anew from training pictures: those of two models do not mix.

    Every rank goes through its own first pictures; the first rank's statistics are taken.

    Source: Izmailov et al., 2018, section 3.2.
    """
    layers = _refreshed(scorer)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    source = scorer.context.batches("train", batch_size=scorer.local_batch_size, epoch=0)
    for batch in islice(source, REFRESHED):
        good = batch.good()
        if good and len(good) > 1:
            scorer.towers(scorer.prepared(good), None)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    share_buffers(scorer.clip.model, world_size=scorer.context.world_size)


def _refreshed(scorer: Scorer) -> list[Any]:
    """Return the BatchNorm layers that learnt statistics in training: others stay as they were."""
    clip, config = scorer.clip.model, scorer.config
    if config.model.freeze_batch_norm or config.optim.method == "lora":
        return []
    kept = optim.frozen(clip, config.optim)
    named = {id(module): name for name, module in clip.named_modules()}
    return [
        module for module in batch_norm.layers(clip) if f"{named[id(module)]}.weight" not in kept
    ]


def _write(scorer: Scorer, outcome: dict[str, Any], *, run_url: str) -> None:
    url = url_of(run_url)
    tensors = {
        "text_features": scorer.classifier().cpu().contiguous(),
        "logit_scale": torch.tensor(outcome["logit_scale"]),
    }
    clip = scorer.clip
    outcome["captions_identity"] = captions.identity(
        scorer.grammar, scorer.classes, tokenize=lambda texts: tokens.token_lists(clip, texts)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(scorer.clip, folder)
        save_file(tensors, folder / "classifier.safetensors")
        storage.upload_folder(folder, url, last="")
    storage.write_json(storage.join(url, FINAL), outcome)
