"""How often a report says that less light is enough where it is not, and how often it says so too late.

usage: verdicts.py [--plates 220] [--model FILE] [--unfinished FILE ...] [--sites 2] [--out FILE.jsonl] [--only NAME]

Held-out plates are simulated with trouble that was planted: stain 0.3 to 3 times as bright, nuclei 0.7 to 1.4 times as large,
clumps, debris, defocus, a lamp that drifts, arrest in half of the wells, empty wells, one, two or three held-out wells instead of
six, and networks that were stopped after a few steps (`--unfinished`, as `scotopic train RUN --steps 50 --again` makes them).
One trained network judges all of them, by the code that writes the reports; nothing but the files of a run is left out.

*Wrong yes*: a level is recommended at which the network's true misses or false finds, against the specimen's truth, exceed those at
full light by more than the purpose's tolerance (limit: 5 % of all recommendations, and none for unfinished networks). Where the
recommended level lies between those measured, images of its setting are taken for this. *Needless no*: on a plate with six wells with
nuclei, all true errors at some level are within half of the tolerances, and this level or a darker one is not recommended (limit: 20 %).

FILE.jsonl gets a line a plate, and what is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from joblib import Parallel, delayed
from machine import machine

from scotopic.nuclei import matching, measure, pooled, reference_segmentation
from scotopic.protocol import ImagingProtocol, MicroscopeProfile
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.report.findings import Findings
from scotopic.report.recommendation import Recommender, has_learned
from scotopic.report.rows import Comparisons, rows_of
from scotopic.simulator import Instrument
from scotopic.store import FrameRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from scotopic.learning.prediction import Predictor

ROOT = Path(__file__).parent.parent
LIMITS = {"wrong yes": 0.05, "needless no": 0.20}
FINISHED = 1500
"""Steps of training from which on a network counts as finished here."""
WELLS = ("B3", "C8", "D5", "E10", "F2", "G7")
TROUBLES = (
    "none", "bright or dim stain", "large or small nuclei", "clumps", "debris", "defocus", "drift of the lamp", "arrest", "few wells",
    "empty wells",
)  # fmt: skip


@dataclass
class Trouble:
    """What is wrong with a plate."""

    name: str
    wells: int = 6
    specimen: dict[str, Any] = field(default_factory=dict)
    simulator: dict[str, Any] = field(default_factory=dict)
    defocus_um: float = 0.0
    drift: float = 0.0
    """Change of the lamp from the first to the last well, which the ledger does not know."""
    empty: int = 0
    """Wells without nuclei."""
    arrest: bool = False


def trouble(name: str, rng: np.random.Generator) -> Trouble:
    """Draw how bad it is."""
    if name == "bright or dim stain":
        return Trouble(name, simulator={"peak_e": 8000 * float(np.exp(rng.uniform(np.log(0.3), np.log(3))))})
    if name == "large or small nuclei":
        return Trouble(name, specimen={"g1_diameter_um": 17.8 * float(rng.uniform(0.7, 1.4))})
    if name == "clumps":
        return Trouble(name, specimen={"nuclei_per_mm2": float(rng.uniform(900, 1800))})
    if name == "debris":
        return Trouble(name, specimen={"debris_per_mm2": float(rng.uniform(400, 2500))})
    if name == "defocus":
        return Trouble(name, defocus_um=float(rng.uniform(2, 8)))
    if name == "drift of the lamp":
        return Trouble(name, drift=float(rng.uniform(-0.25, 0.25)))
    if name == "few wells":
        return Trouble(name, wells=int(rng.integers(1, 4)))
    if name == "empty wells":
        return Trouble(name, empty=int(rng.integers(1, 7)))
    return Trouble(name, arrest=name == "arrest")


@dataclass
class Plate:
    """The held-out sites of a simulated plate: what `scotopic.report` asks of a run's."""

    protocol: ImagingProtocol
    profile: MicroscopeProfile
    frames: dict[Any, dict[str, FrameRecord]]
    images: dict[tuple[Any, str], NDArray[Any]]
    truths: dict[Any, NDArray[Any]]
    expose: Callable[[Any, float, float], NDArray[Any]]
    """Takes another image of a site: its key, exposure and LED power."""

    @property
    def wells(self) -> tuple[str, ...]:
        """Wells with sites."""
        return tuple(dict.fromkeys(key[0] for key in self.frames))

    @property
    def planned(self) -> int:
        """Number of sites."""
        return len(self.frames)

    def relative_dose(self, key: Any, record: FrameRecord) -> float:
        """Return the light of an image relative to full light."""
        return record.relative_to(self.frames[key][self.protocol.reference.name])


def plate(what: Trouble, seed: int, sites: int) -> Plate:
    """Take all images of a plate."""
    protocol_data = yaml.safe_load((ROOT / "protocols" / "low_light_96.yaml").read_text(encoding="utf-8"))
    wells = WELLS[: what.wells]
    protocol_data |= {"wells": ", ".join((*wells, "A1")), "held_out": ", ".join(wells)}
    protocol_data["sites"] = {"rows": 1, "columns": sites}
    protocol = ImagingProtocol.model_validate(protocol_data)
    profile_data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    profile_data["simulator"] |= what.simulator | {"seed": seed}
    profile_data["simulator"]["specimen"] |= what.specimen | {"seed": 1000 + seed}
    profile = MicroscopeProfile.model_validate(profile_data)
    scopes = {"": Instrument(SimulatorSetup.of(profile, protocol))}
    for kind, specimen in (("arrest", {"g2_fraction": 0.65}), ("empty", {"empty_well_fraction": 1.0})):
        changed = yaml.safe_load(yaml.safe_dump(profile_data))
        changed["simulator"]["specimen"] |= specimen
        scopes[kind] = Instrument(SimulatorSetup.of(MicroscopeProfile.model_validate(changed), protocol))

    def scope_of(well: str) -> Instrument:
        number = wells.index(well)
        if number < what.empty:
            return scopes["empty"]
        return scopes["arrest"] if what.arrest and number % 2 else scopes[""]

    places = {
        (site.well, site.index, 0): (site.plate_x_um, site.plate_y_um)
        for site in protocol.sites_in_travel_order(profile.camera.fov_um)
        if site.well in wells
    }
    lamp = {key: 1 + what.drift * wells.index(key[0]) / 5 for key in places}

    def expose(key: Any, exposure_ms: float, led_percent: float) -> NDArray[Any]:
        scope = scope_of(key[0])
        scope.move_xy(*places[key])
        scope.stage_is_moving()
        scope.move_z(scope.focus_z_um + what.defocus_um)
        scope.set_led_percent(led_percent)
        scope.set_shutter_open(True)
        scope.light_is_pending()
        # A lamp that drifts gives other light in the same exposure; full light is what later doses are relative to.
        image = scope.expose(exposure_ms * (lamp[key] if exposure_ms < 100 else 1))
        scope.set_shutter_open(False)
        return image

    frames: dict[Any, dict[str, FrameRecord]] = {}
    images, truths = {}, {}
    for number, key in enumerate(places):
        frames[key] = {}
        for level in protocol.levels_in_exposure_order:
            images[key, level.name] = expose(key, level.exposure_ms, level.led_percent)
            frames[key][level.name] = FrameRecord(
                index=number, well=key[0], site=key[1], level=level.name, t=0, z=0, attempt=1, time="", state="written",
                exposure_ms=level.exposure_ms, led_percent=level.led_percent, xy_um=places[key],
                signal_dose_ms=level.nominal_dose, sample_dose_ms=level.nominal_dose,
            )  # fmt: skip
        scope = scope_of(key[0])
        scope.move_xy(*places[key])
        truths[key] = scope.specimen.truth(scope.field).labels
    return Plate(protocol, profile, frames, images, truths, expose)


def judged(it: Plate, predictor: Predictor, steps: int) -> dict[str, Any]:
    """Return what the report would say of a plate, and what is true."""
    findings, camera, reference = Findings(), it.profile.camera, it.protocol.reference.name

    def found(
        key: Any, image: NDArray[Any], dose: float, record: FrameRecord, source: Any, labels: NDArray[Any]
    ) -> None:
        table = measure(labels, image, pixel_size_um=camera.pixel_size_um, camera=camera)
        place = {"well": key[0], "site": key[1], "t": 0, "z": 0, "level": record.level, "relative_dose": dose}
        findings.add(source, record, labels, table.assign(**place))

    second = it.protocol.levels_of(it.protocol.channel)[1].name
    for key, levels in it.frames.items():
        for record in sorted(levels.values(), key=lambda r: -r.signal_dose_ms):
            image, dose = it.images[key, record.level], it.relative_dose(key, record)
            found(key, image, dose, record, "network", predictor(image, dose).labels)
            if record.level == reference or (record.level == second and steps < FINISHED):
                labels = reference_segmentation(image, pixel_size_um=camera.pixel_size_um)
                found(key, image, dose, record, "reference" if record.level == reference else "classical", labels)

    def thin(name: str, dose: float) -> None:
        for number, (key, levels) in enumerate(it.frames.items()):
            electrons = np.maximum(camera.to_electrons(it.images[key, reference]), 0)
            image = camera.expose(electrons * np.float32(dose), np.random.default_rng(number))
            record = levels[reference].model_copy(update={"level": name})
            found(key, image, dose, record, "network", predictor(image, dose).labels)

    sites: Any = it
    comparisons = Comparisons(sites, findings)
    own = [row for row in rows_of(sites, comparisons) if row.source == "network"]
    learned = has_learned(comparisons, own, it.protocol.training.least_f1, {"steps": steps})
    recommender = Recommender(sites, findings, comparisons, own, thin)
    recommendation = recommender.recommend(learned)
    measured = {row.name: findings.labels["network", row.name] for row in own}
    truth = {name: wrong(labels, it.truths) for name, labels in measured.items()}
    purposes = {}
    for name, purpose in recommendation.purposes.items():
        if purpose.level is not None and purpose.level not in truth:
            truth[purpose.level] = wrong(taken_again(it, purpose, predictor), it.truths)
        judgements = {each.name: each.verdict for each in purpose.judgements}
        purposes[name] = {"outcome": purpose.outcome, "level": purpose.level, "judgements": judgements}
    figures = {
        row.name: {name: each.value for name, each in comparisons.errors(("network", row.name)).items()}
        for row in own[1:]
    }
    return {
        "f1": learned.f1,
        "nuclei": own[0].nuclei_count,
        "doses": {row.name: row.relative_dose for row in [*own, *recommender.thinned.values()]},
        "truth": truth,
        "figures": figures,
        "purposes": purposes,
        "tolerances": {name: each.model_dump() for name, each in it.protocol.validation.by_purpose.items()},
    }


def taken_again(it: Plate, purpose: Any, predictor: Predictor) -> dict[Any, NDArray[Any]]:
    """Return what the network finds in images that the recommended setting really gives."""
    return {
        key: predictor(it.expose(key, purpose.exposure_ms, purpose.led_percent), purpose.relative_dose).labels
        for key in it.frames
    }


def wrong(labels: dict[Any, NDArray[Any]], truths: dict[Any, NDArray[Any]]) -> dict[str, float]:
    """Return missed and false nuclei against the truth, in percent."""
    half = pooled(matching(truths[key], each) for key, each in labels.items()).at(0.5)
    return {"missed_percent": 100 * (1 - half.recall), "false_percent": 100 * (1 - half.precision)}


def one(name: str, seed: int, sites: int, model: Path, steps: int) -> dict[str, Any]:
    import torch

    from scotopic.learning.model import Model
    from scotopic.learning.prediction import Predictor

    torch.set_num_threads(1)
    what = trouble(name, np.random.default_rng(seed))
    it = plate(what, seed, sites)
    predictor = Predictor(Model.load(model), it.profile.camera.noise, dtype="float32")
    about = {
        "trouble": name,
        "seed": seed,
        "model": model.stem,
        "steps": steps,
        "wells": what.wells,
        "empty": what.empty,
    }
    return about | judged(it, predictor, steps)


def excess(result: dict[str, Any], level: str, figure: str) -> float:
    """Return by how much more is wrong at a level than at full light, in points."""
    full = next(iter(result["truth"].values()))
    return float(result["truth"][level][figure] - full[figure])


def is_wrong_yes(result: dict[str, Any], purpose: str) -> bool:
    level, tolerances = result["purposes"][purpose]["level"], result["tolerances"][purpose]
    return level is not None and any(
        tolerances[figure] and excess(result, level, figure) > tolerances[figure]
        for figure in ("missed_percent", "false_percent")
    )


def is_good(result: dict[str, Any], purpose: str, level: str) -> bool:
    """Return whether all errors at a level are within half of the tolerances: the true ones where there is a truth."""
    for figure, tolerance in result["tolerances"][purpose].items():
        if tolerance is None:
            continue
        is_counted = figure in {"missed_percent", "false_percent"}
        values = [result["figures"][level][figure], *([excess(result, level, figure)] if is_counted else [])]
        if any(value is None or abs(value) > tolerance / 2 for value in values):
            return False
    return True


def is_needless_no(result: dict[str, Any], purpose: str) -> bool | None:
    """Return whether a level with small errors was not recommended; nothing where there is none."""
    if result["wells"] < 6 or result["empty"] or result["steps"] < FINISHED:
        return None
    good = [level for level in result["figures"] if is_good(result, purpose, level)]
    if not good:
        return None
    best = min(result["doses"][level] for level in good)
    level = result["purposes"][purpose]["level"]
    return level is None or bool(result["doses"][level] > 1.01 * best)


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    finished = [each for each in results if each["steps"] >= FINISHED]
    unfinished = [each for each in results if each["steps"] < FINISHED]
    purposes = list(results[0]["purposes"])
    for purpose in purposes:
        yes = [each for each in finished if each["purposes"][purpose]["level"] is not None]
        bad = [each for each in yes if is_wrong_yes(each, purpose)]
        needless = [found for each in finished if (found := is_needless_no(each, purpose)) is not None]
        too_early = [each for each in unfinished if is_wrong_yes(each, purpose)]
        said_yes = sum(each["purposes"][purpose]["level"] is not None for each in unfinished)
        yield (
            f"{purpose:<13} wrong yes {len(bad):3} of {len(yes):3} recommendations, {len(bad) / max(len(yes), 1):6.1%} (limit 5 %); "
            f"needless no {sum(needless):3} of {len(needless):3} plates, {sum(needless) / max(len(needless), 1):6.1%} (limit 20 %); "
            f"unfinished networks: {len(too_early)} wrong yes (limit 0), {said_yes} recommendations of {len(unfinished)}"
        )
    for name in dict.fromkeys(each["trouble"] for each in results):
        some = [each for each in results if each["trouble"] == name]
        counts = {
            purpose: Counter(
                each["purposes"][purpose]["level"] or each["purposes"][purpose]["outcome"] for each in some
            ).most_common()
            for purpose in purposes
        }
        yield f"{name} ({len(some)} plates)"
        for purpose, outcomes in counts.items():
            yield f"    {purpose:<13} " + ", ".join(f"{outcome} {count}" for outcome, count in outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plates", type=int, default=220)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "data" / "model.safetensors")
    parser.add_argument("--unfinished", type=Path, nargs="*", default=[])
    parser.add_argument("--sites", type=int, default=2, help="in each well")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", default=None, help="one kind of trouble")
    asked = parser.parse_args()
    from scotopic.learning.model import Model

    print(f"# {machine()}")
    models = [asked.model, *asked.unfinished]
    steps = {path: Model.load(path).card.steps for path in models}
    jobs = []
    for seed in range(asked.plates):
        # Every fifth plate is for an unfinished network, where there are any; troubles take turns.
        model = models[1 + seed // 5 % (len(models) - 1)] if len(models) > 1 and seed % 5 == 4 else asked.model
        jobs.append((TROUBLES[(seed + seed // 10) % len(TROUBLES)], seed, asked.sites, model, steps[model]))
    if asked.only:
        jobs = [job for job in jobs if job[0] == asked.only]
    results = []
    if asked.out is not None and asked.out.exists():
        results = [json.loads(line) for line in asked.out.read_text(encoding="utf-8").splitlines()]
    done = {each["seed"] for each in results}
    pending = [job for job in jobs if job[1] not in done]
    for result in Parallel(n_jobs=-1, return_as="generator")(delayed(one)(*job) for job in pending):
        results.append(result)
        if asked.out is not None:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
    print(
        f"{len(results)} plates, {asked.sites} sites a well, {np.median([each['nuclei'] for each in results]):.0f} nuclei (median)"
    )
    for line in table(results):
        print(line)


if __name__ == "__main__":
    main()
