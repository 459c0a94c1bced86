# SPDX-License-Identifier: MIT
"""26: SchedulerType of another kind than the model: every scheduler class of diffusers on shapes, and the other way round."""
import os
import tempfile
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())
import diffusers

from localai_diffusers.loading import schedulers
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, generate, load
from tests.zoo.kit import silent

silent()
PROMPT, here = "a red circle on a blue background", Path(tempfile.mkdtemp())
shutil.rmtree(here, ignore_errors=True)
here.mkdir(parents=True)
model = load(SHAPES_MODEL, Options=["cfg_scale:1.5"])
own = model.pipeline.scheduler
known = {kind.__name__ for kind in own.compatibles}
right, wrong, refused, broken, foreign_right = [], [], [], [], []
for name in sorted(schedulers._scheduler_classes()):
    try:
        schedulers.check(name, {**own.config, "_class_name": "DDIMScheduler"})
        model.pipeline.scheduler, notes = schedulers.make(name, own, True)
    except Exception as error:
        (refused if "cannot drive" in str(error) else broken).append(f"{name} at load ({type(error).__name__}: {str(error)[:60]})" if "cannot drive" not in str(error) else name)
        continue
    try:
        image = generate(model, PROMPT, width=64, height=64, step=40 if "DDPM" in name else 20, seed=1)[0]
    except Exception as error:
        broken.append(f"{name}{'*' if name in known else ''} ({type(error).__name__}: {str(error)[:70]})")
        continue
    good = judge(image).prompt() == PROMPT
    if good:
        (right if name in known else foreign_right).append(name)
    else:
        wrong.append(name + ("*" if name in known else "") + (" note" if notes else ""))
reverse = []
for own_class, names in (("EDMEulerScheduler", ("euler", "dpmpp_2m", "ddim", "")), ("EDMDPMSolverMultistepScheduler", ("euler", "")), ("EulerDiscreteScheduler", ("EDMEulerScheduler", "IPNDMScheduler"))):
    folder = here / own_class
    shutil.copytree(SHAPES_MODEL, folder)
    getattr(diffusers, own_class)().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", own_class]}))
    for name in names:
        try:
            made = load(folder, SchedulerType=name)
            reverse.append(f"{own_class} model + {name or 'its own'}: loads as {type(made.pipeline.scheduler).__name__}, notes {len(made.notes)}")
        except Exception as error:
            reverse.append(f"{own_class} model + {name}: {type(error).__name__}: {str(error)[:80]}")
silent_wrong = [name for name in wrong if not name.endswith("note") and "*" not in name]
bad_reverse = [text for text in reverse if "loads" in text and "its own" not in text and ("EDMEuler" in text.split(" + ")[1] or "EDM" in text.split(" model")[0])]
print("26", "FAIL" if silent_wrong or bad_reverse else "PASS", f"{len(right)} compatible right; incompatible yet right: {foreign_right}; WRONG (* = diffusers calls it compatible): {wrong}; failed: {broken}; refused: {refused}; "
      + "; ".join(reverse))
