from __future__ import annotations

import subprocess
import sys

from support.models import TINY

CODE = """
import sys
import torch
import raypose.clip.model, raypose.releases.predictor, raypose.serving.worker
assert "torch._dynamo" not in sys.modules, "what compiles nothing loads the compiler"
assert "transformers" not in sys.modules, "CLIP's own text tower loads another library's"

from raypose.config import ModelConfig, OptimConfig
from raypose.training import loop, optim
tiny = raypose.clip.model.build(ModelConfig(backbone="tiny", architectures={"tiny": TINY})).model
towers = raypose.clip.towers.Towers(tiny)
optimizer = optim.build(tiny, OptimConfig())
tiny(torch.ones(1, 3, 32, 32), torch.ones(1, 32, dtype=torch.int64))[0].sum().backward()
optimizer.step()
optimizer.zero_grad()
assert raypose.clip.towers.optimizer_state(towers, optimizer)["state"]
for name in ("torch._dynamo", "torch.distributed.tensor", "sympy"):
    assert name not in sys.modules, f"training on one worker loads {name}"

import timm
model = timm.create_model(
    "naflexvit_base_patch16_gap", depth=1, embed_dim=24, num_heads=2, num_classes=3
)
assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)

from raypose.clip import libraries
with libraries._without_compiler():  # whatever else may be loaded with them wants all of it
    import torch._dynamo
assert torch._dynamo.utils.counters["frames"] == {}

from torchvision.ops import roi_align
assert roi_align.__globals__["is_compile_supported"]("cpu") in (True, False)
assert sys.modules["torch._dynamo.utils"].is_compile_supported("cpu") in (True, False)
torch.use_deterministic_algorithms(True)
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert roi_align(torch.ones(1, 1, 8, 8), boxes, output_size=2).tolist() == [[[[1, 1], [1, 1]]]]

assert torch.compiler.disable.__module__ == "torch.compiler"
made = torch.compile(lambda x: x.sin() + 1, backend="eager")(torch.zeros(3))
assert made.tolist() == [1, 1, 1]
"""


def test_the_compiler_is_loaded_by_what_compiles_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"TINY = {TINY}\n{CODE}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
