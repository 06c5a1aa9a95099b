"""What a network trained on a simulated plate counts, misses and invents on wells that it has never seen, for several seeds.

usage: low_light_figures.py [--minutes 12 | --steps N] [--seeds 0 1 2] [--work DIR]

24 wells of the pinned specimen x 9 sites at 512², six wells held out; one training a seed. Against the specimen's truth:
missed and false nuclei (limits 2 % each at 100, 2 and 0.2 %, 4 % at 0.05 %), F1; against the network's own count at 100 %: the
deviation (limits 0.3 % at 2 and 0.2 %, 1 % at 0.05 %), its mean over the seeds with a 95 % interval of Student's t. Beside them the
reference masks, which taught it, and the classical method on the same dark images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from machine import machine
from scipy import stats

ROOT = Path(__file__).parent.parent
LIMITS = {"100%": (2, 2, None), "2%": (2, 2, 0.3), "0.2%": (2, 2, 0.3), "0.05%": (4, 4, 1)}
"""Missed and false nuclei, and deviation of the count, in percent."""


def scotopic(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "scotopic", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def line(name: str, entry: dict[str, Any]) -> dict[str, float]:
    truth, own = entry["against"]["truth"], entry["against"].get("network_100")
    figures = {key: truth[key]["value"] for key in ("miss_percent", "false_percent", "f1_at_0.5", "mean_f1")}
    deviation = own["count_deviation_percent"]["value"] if own else 0.0
    print(
        f"{name:<10} {entry['name']:>6}  missed {figures['miss_percent']:5.2f} %  false {figures['false_percent']:5.2f} %  "
        f"F1@0.5 {figures['f1_at_0.5']:.3f}  mean {figures['mean_f1']:.3f}  nuclei {entry['nuclei_count']} "
        f"({deviation:+.2f} % of the network's at 100 %)",
        flush=True,
    )
    return figures | {"deviation": deviation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="where the run is kept, and gone on with")
    asked = parser.parse_args()
    budget = ["--steps", asked.steps] if asked.steps else ["--minutes", asked.minutes]
    print(f"# {machine()}; {' '.join(map(str, budget))[2:]} a seed")
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = asked.work or Path(name)
        folder.mkdir(exist_ok=True)
        protocol = yaml.safe_load((ROOT / "protocols" / "low_light_96.yaml").read_text(encoding="utf-8"))
        protocol |= {"wells": "B2:E7", "held_out": 6}
        path, run = folder / "protocol.yaml", folder / "RUN"
        path.write_text(yaml.safe_dump(protocol), encoding="utf-8")
        scotopic("acquire", path, "--microscope", ROOT / "hardware_configs" / "simulated.yaml", "--out", run)
        for seed in asked.seeds:
            scotopic("train", run, "--again", "--seed", seed, *budget)
            status = json.loads((run / "status" / "train.json").read_text(encoding="utf-8"))
            scotopic("validate", run, "--model", run / "models" / f"{status['model']}.safetensors")
            report = json.loads((run / "report.json").read_text(encoding="utf-8"))
            print(f"seed {seed}: {status['step']:,} steps in {status['seconds'] / 60:.1f} min")
            for entry in report["levels"]:
                if entry["source"] == "network":
                    found.setdefault(entry["name"], []).append(line("network", entry))
        for entry in report["levels"]:
            if entry["source"] != "network":
                line(entry["source"], entry)
    for level, each in found.items():
        missed, false, limit = LIMITS[level]
        worst = {key: max(figures[key] for figures in each) for key in ("miss_percent", "false_percent")}
        deviations = np.array([figures["deviation"] for figures in each])
        text = f"{level:>6}: worst missed {worst['miss_percent']:.2f} % (limit {missed}), false {worst['false_percent']:.2f} % (limit {false})"
        if limit is not None and len(each) > 1:
            half = stats.t.ppf(0.975, len(each) - 1) * deviations.std(ddof=1) / np.sqrt(len(each))
            text += f"; count {deviations.mean():+.2f} % +- {half:.2f} (limit {limit})"
        print(text)


if __name__ == "__main__":
    main()
