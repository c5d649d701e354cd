"""Models on a GPU: equal to the CPU's numbers, and their time against peers in the same run.

The peers are transformers (DETR, BLOOM; DETR also through torch.compile with CUDA graphs) and
torchvision (Mask R-CNN); FourCastNet's is its own form through torch.compile. Weights are random.
Products are in full float32 (no TF32) unless a row says float16 or half.

    python bench/gpu.py [--parts equal detr mask_rcnn fourcastnet bloom] [--rounds 7] [--layers 30]
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cupola
from cupola.bundles import shipped_names
from cupola.config import Config
from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM
from cupola.runtime.building import without_pretrained
from cupola.runtime.optimize.engines import Situation
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.network import Network
from cupola.runtime.optimize.registry import ENGINES
from cupola.weights.families.bloom import BLOOM

CUDA = torch.device("cuda")
BLOOM_7B1 = {"vocab_size": 250880, "hidden_size": 4096, "n_head": 32}
FASTER = "torch.compile"
FOLDER = Path(__file__).parent.parent
MASK_RCNN = FOLDER / "tests/goldens/zoo/mask-rcnn_r50_fpn_1x_coco.json"


def row(what: str, value: float, note: str = "") -> None:
    print(f"{what:<66} {value:9.4g}  {note}", flush=True)


def seconds(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns, after three of each."""
    for call in calls.values():
        for _ in range(3):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        names = list(calls) if i % 2 == 0 else list(calls)[::-1]
        for name in names:
            times[name].append(seconds(calls[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def report(what: str, times: dict[str, float], peer: str) -> None:
    for name, value in times.items():
        row(f"{what}, {name}: relative to {peer}", value / times[peer], f"{1000 * value:.2f} ms")


def equal(options: Any) -> None:
    """Every shipped bundle's answer on its own example, on the GPU and on the CPU."""
    for name in shipped_names():
        here, there = cupola.Predictor.load(name), cupola.Predictor.load(name, device=CUDA)
        if here.task == "language":
            asked = "It is a truth universally acknowledged, that"
            texts = [p(asked, max_tokens=24).text for p in (here, there)]
            row(f"{name}: greedy text is the same", float(texts[0] == texts[1]), repr(texts[1]))
            continue
        if here.task == "forecast":
            start = here.example(0)[0].numpy()
            ours, theirs = (p(start, steps=3, time=0.0).fields for p in (there, here))
        elif here.task == "detection3d":
            ours, theirs = (p.predict(p.example({}), 0.0).boxes for p in (there, here))
        else:
            image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
            ours, theirs = (p(image, 0.0).boxes for p in (there, here))
        row(f"{name}: largest difference to the CPU", float((ours - theirs).abs().max()))


def by_engine(model: Any, given: tuple[Any, ...], *names: str) -> dict[str, Any]:
    """Name of an engine -> the model that it makes for these arguments of its network."""
    situation = Situation(None, model, None)
    situation.__dict__["_call"] = Network(model).call(given, {})
    return {name: ENGINES[name].model_of(situation) for name in names}


def detr(options: Any) -> None:
    from detr import detr as peer_of
    from detr import ours as ours_of

    peer = peer_of()
    model = ours_of(peer).to(CUDA)
    peer = peer.to(CUDA)
    pixels = torch.randn(1, 3, 800, 1066, device=CUDA)
    ours, theirs = model(pixels), peer(pixels)
    row(
        "DETR: largest difference of boxes", float((ours.boxes[-1] - theirs.pred_boxes).abs().max())
    )
    made = by_engine(model, (pixels, None), "cuda-graph", "half")
    fast_peer = torch.compile(peer, mode="reduce-overhead")
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: model(pixels, None),
        "cuda-graph": lambda: made["cuda-graph"](pixels, None),
        "transformers": lambda: peer(pixels),
        f"transformers, {FASTER}": lambda: fast_peer(pixels),
    }
    report("DETR-R50 800x1066 float32", compare(calls, options.rounds), "transformers")
    half_peer = peer.half().to(memory_format=torch.channels_last)
    small = pixels.half().contiguous(memory_format=torch.channels_last)
    fast_half = torch.compile(half_peer, mode="reduce-overhead")
    calls = {
        "half": lambda: made["half"](pixels, None),
        "transformers": lambda: half_peer(small),
        f"transformers, {FASTER}": lambda: fast_half(small),
    }
    report("DETR-R50 800x1066 float16", compare(calls, options.rounds), "transformers")


def mask_rcnn(options: Any) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)
    peer = peer.eval().to(CUDA)
    config = json.loads(MASK_RCNN.read_text())["model"]
    model = cupola.build(without_pretrained(config)).eval().to(CUDA)
    pixels = torch.randn(1, 3, 800, 1344, device=CUDA)
    batch = {
        "pixels": pixels,
        "padding_mask": None,
        "image_sizes": [(800, 1344)],
        "scale_factors": [(1.0, 1.0)],
        "original_sizes": [(800, 1344)],
    }
    call = Network(model).first_call(lambda: model.predict(batch))
    assert call is not None
    made = by_engine(model, call.args, "cuda-graph", "half")
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: model.predict(batch),
        "cuda-graph": lambda: made["cuda-graph"].predict(batch),
        "half": lambda: made["half"].predict(batch),
        "torchvision (compiled operators)": lambda: peer([pixels[0]]),
    }
    report("Mask R-CNN R50 800x1344", compare(calls, options.rounds), [*calls][-1])


def fourcastnet(options: Any) -> None:
    config = Config.load(FOLDER / "src/cupola/configs/afno/fourcastnet.py").to_dict()["model"]
    model = cupola.build(config).eval().to(CUDA)
    state = torch.randn(1, 20, 720, 1440, device=CUDA)
    fast = torch.compile(cupola.nn.to_torch(model), mode="reduce-overhead")
    made = by_engine(model, (state,), "cuda-graph")
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: model(state),
        "cuda-graph": lambda: made["cuda-graph"](state),
        FASTER: lambda: fast(state),
    }
    report("FourCastNet 720x1440, one step", compare(calls, options.rounds), FASTER)


def week(options: Any) -> None:
    from forecast import predictor_of, rollout

    predictor = predictor_of(768, 12)
    predictor.to(CUDA)
    start = np.random.default_rng(0).normal(size=(20, 720, 1440)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        rollout(predictor, start, 2, Path(folder) / "warm.zarr")
        row("FourCastNet: 28 steps, seconds", rollout(predictor, start, 28, None))
        written = rollout(predictor, start, 28, Path(folder) / "week.zarr")
        row("FourCastNet: 28 steps, each written to zarr, seconds", written)


def bloom(options: Any) -> None:
    import transformers

    shape = {**BLOOM_7B1, "n_layer": options.layers}
    torch.manual_seed(0)
    model = BloomForCausalLM(**shape, device=CUDA, dtype=torch.float16).eval()
    optimize(model, "none")
    with torch.device("meta"):
        peer = transformers.BloomForCausalLM(transformers.BloomConfig(**shape)).eval()
    state = {BLOOM.their_key(key): tensor for key, tensor in model.state_dict().items()}
    state["lm_head.weight"] = model.head.weight
    peer.load_state_dict(state, assign=True)
    peer.tie_weights()
    prompt = torch.randint(5, 1000, (1, 64), device=CUDA)
    tokens = 64

    def ours(streams: int) -> list[int]:
        scheduler = Scheduler(model, cache_tokens=4096, prefix_cache=False)
        for number in range(streams):
            sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
            scheduler.add(str(number), prompt[0].tolist(), sampling)
        found = []
        while scheduler.active:
            found += [t.token_id for t in scheduler.step() if t.request_id == "0"]
        return found

    def theirs() -> list[int]:
        options = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
        written: list[int] = peer.generate(prompt, **options)[0, 64:].tolist()
        return written

    expected = copy.deepcopy(peer).float()(prompt).logits
    largest = float(expected.abs().max())
    for name, logits in (("Cupola", model(prompt)), ("transformers", peer(prompt).logits)):
        apart = float((logits.float() - expected).abs().max()) / largest
        row(f"BLOOM float16, {name}: logits, difference from float32", apart)
    same = sum(a == b for a, b in zip(ours(1), theirs(), strict=True))
    row(f"BLOOM, 7b1's sizes, {options.layers} layers: equal greedy tokens of {tokens}", same)
    calls = {"Cupola": lambda: ours(1), "transformers": theirs}
    times = compare(calls, 3)
    report(f"BLOOM float16, prompt of 64, {tokens} tokens", times, "transformers")
    eight = min(seconds(lambda: ours(8)) for _ in range(2))
    row("eight streams: tokens/s over one", 8 * times["Cupola"] / eight)


PARTS = (equal, detr, mask_rcnn, fourcastnet, week, bloom)


def main() -> None:
    parser = argparse.ArgumentParser()
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--parts", nargs="*", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=30, help="of BLOOM-7b1's 30")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench/gpu.py: no GPU on this machine")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    with torch.inference_mode():
        for part in PARTS:
            if part.__name__ in options.parts:
                part(options)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
