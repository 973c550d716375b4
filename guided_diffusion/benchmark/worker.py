"""One engine in a process of its own, told by lines of JSON what to time; `contest.Contender` speaks with it.

It runs as a script and imports no more of this package than its engine needs: RePaint's code has a package
named guided_diffusion too, so a process has either theirs or ours. Requests and replies are described at
`serve`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Walk = Callable[[], object]
"""Does one walk."""

Options = SimpleNamespace
"""engine: ours | repaint | diffusers; model: the U-Net's keys; weights: file; precision: of ours, and fp16 of
RePaint's code; compile: of ours; device; threads; place: folder of RePaint's code."""


def clock(device: str, threads: int) -> Callable[[], float]:
    """Seconds. With one thread on a CPU the process's own time, which other programs spoil least."""
    return time.process_time if threads == 1 and device == "cpu" else time.perf_counter


def wait(out: Tensor) -> Tensor:
    """Wait until a GPU has computed it."""
    if out.is_cuda:
        torch.cuda.synchronize(out.device)
    return out


def noisy(batch: int, side: int, device: str) -> Tensor:
    """(B, 3, S, S): the same for every engine."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(side)).to(device)


def masked(batch: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and a mask (B, 1, S, S) whose hole, 0, is a box in the middle."""
    keep = torch.ones(batch, 1, side, side, device=device)
    keep[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0
    return noisy(batch, side, device).clamp(-1, 1), keep


class Counted:
    """Stands before a network: counts its evaluations and the seconds spent in them."""

    def __init__(self, call: Callable[..., Any], now: Callable[[], float], device: str) -> None:
        self.call, self.now, self.device = call, now, device
        self.nfe, self.seconds = 0, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._wait()
        begin = self.now()
        out = self.call(*args, **kwargs)
        self._wait()
        self.seconds += self.now() - begin
        self.nfe += 1
        return out

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


class Ours:
    """This project, set up as `test.py` sets it up."""

    def __init__(self, options: Options) -> None:
        from guided_diffusion import build, checkpoints
        from guided_diffusion.config.schema import ModelConfig
        from guided_diffusion.runtime import distributed, graphs, hardware

        hardware.keep_memory()
        self.device, model = torch.device(options.device), ModelConfig(**options.model)
        distributed.make_current(self.device)
        hardware.round_products(options.precision)
        with torch.device("meta"):
            empty = build.build_network(model)
        loaded = checkpoints.load(empty, options.weights, model.image_size, as_stored=True)
        placed = build.place(loaded, self.device, options.precision, model.image_size)
        self.network = self.call = graphs.quickened(placed, options.compile)

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(x, t[:1])  # as a Denoiser asks: one time for all

    def walk(self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: Counted) -> Walk:
        from guided_diffusion import build
        from guided_diffusion.config.schema import ProcessConfig
        from guided_diffusion.denoiser import Denoiser
        from guided_diffusion.operators import Mask
        from guided_diffusion.samplers import Noise, Problem, RePaint, walk
        from guided_diffusion.scheduler import JumpSchedule

        process, times = build.build_process(ProcessConfig(timestep_respacing=str(schedule["t_T"])))
        denoise = Denoiser(counted, process, times.to(self.device))  # type: ignore[arg-type]  # no Module
        generators = [torch.Generator(self.device).manual_seed(i) for i in range(len(y))]
        problem = Problem(y, Mask(keep), denoise, process, Noise(generators, y.shape[1:]))
        sampler = RePaint(JumpSchedule(**schedule))
        return lambda: [wait(step.x) for step in walk(sampler, problem)]


class Theirs:
    """RePaint's published code, from a checkout, called as its test.py calls it: as torch comes, in float32
    or, with its key use_fp16, in float16."""

    def __init__(self, options: Options) -> None:
        sys.path.insert(0, options.place)
        self.code = importlib.import_module("guided_diffusion.script_util")
        self.conf = importlib.import_module("conf_mgt").Default_Conf()
        self.device, self.model = options.device, options.model
        defaults = self.code.model_and_diffusion_defaults()
        given = {key: value for key, value in self.model.items() if key in defaults}
        half = options.precision == "fp16"
        self.conf.update({**defaults, **given, "diffusion_steps": 1000, "use_fp16": half})
        self.conf.update(use_value_logger=False, respace_interpolate=False, pget=lambda _key: None)
        self.conf.update(inpa_inj_sched_prev=True, inpa_inj_sched_prev_cumnoise=False)
        keys = {key: self.conf[key] for key in defaults}
        self.network, _ = self.code.create_model_and_diffusion(**keys, conf=self.conf)
        state = torch.load(options.weights, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state)
        self.network.to(self.device)
        if half:
            self.network.convert_to_fp16()
        self.call = self.network.eval()

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(x, t)

    def walk(self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: Counted) -> Walk:
        respacing, learned = str(schedule["t_T"]), self.conf["learn_sigma"]
        diffusion = self.code.create_gaussian_diffusion(
            steps=1000, learn_sigma=learned, timestep_respacing=respacing, conf=self.conf
        )
        self.conf.update(timestep_respacing=respacing, schedule_jump_params={"n_sample": 1, **schedule})
        return lambda: diffusion.p_sample_loop(
            lambda x, t, **_: counted(x, t),
            tuple(y.shape),
            model_kwargs={"gt": y, "gt_keep_mask": keep},
            device=self.device,
            progress=False,
            return_all=True,
            conf=self.conf,
        )


class Diffusers:
    """RePaintPipeline of diffusers, with its own U-Net of the same widths, in float32."""

    def __init__(self, options: Options) -> None:
        self.code = importlib.import_module("diffusers")
        self.device, model = options.device, options.model
        mults = [int(mult) for mult in model["channel_mult"].split(",")]
        size = model["image_size"]
        attended = [size // int(side) for side in model["attention_resolutions"].split(",")]
        attends = [2**level in attended for level in range(len(mults))]
        torch.manual_seed(0)
        self.network = self.code.UNet2DModel(
            sample_size=size,
            layers_per_block=model["num_res_blocks"],
            block_out_channels=[mult * model["num_channels"] for mult in mults],
            down_block_types=["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
            up_block_types=["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
            attention_head_dim=model["num_head_channels"],
            norm_num_groups=model["norm_num_groups"],
        )
        self.call = self.network.to(self.device).eval().forward

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(x, t).sample

    def walk(self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: Counted) -> Walk:
        pipeline = self.code.RePaintPipeline(self.network, self.code.RePaintScheduler())
        pipeline.set_progress_bar_config(disable=True)
        self.network.forward = counted
        jumps = {key: schedule[key] for key in ("jump_length", "jump_n_sample")}
        return lambda: pipeline(y, keep, num_inference_steps=schedule["t_T"], output_type="np", **jumps)


# An engine: `network`; `call`, what a walk calls, with whatever it likes; `evaluate`; `walk`.
ENGINES: dict[str, Callable[[Options], Any]] = {"ours": Ours, "repaint": Theirs, "diffusers": Diffusers}


class Server:
    """Answers requests about one engine."""

    def __init__(self, options: Options) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.empty = options, peak_memory()
        self.now, self.device = clock(options.device, options.threads), options.device
        self.engine = ENGINES[options.engine](options)

    def evaluate(self, batch: int, side: int, calls: int) -> dict[str, Any]:
        x, t = noisy(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        seconds = []
        for _ in range(calls):
            begin = self.now()
            wait(self.engine.evaluate(x, t))
            seconds.append(self.now() - begin)
        return {"seconds": seconds}

    def answer(self, batch: int, side: int, path: str) -> dict[str, Any]:
        x, t = noisy(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        torch.save(self.engine.evaluate(x, t).float().cpu(), path)
        return {}

    def walk(self, batch: int, side: int, schedule: Mapping[str, Any]) -> dict[str, Any]:
        counted = Counted(self.engine.call, self.now, self.device)
        go = self.engine.walk(*masked(batch, side, self.device), schedule, counted)
        begin = self.now()
        go()
        return {
            "seconds": self.now() - begin,
            "inside": counted.seconds,
            "evaluations": counted.nfe,
        }

    def flops(self, batch: int, side: int) -> dict[str, Any]:
        x, t = noisy(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        # Fused attention would go uncounted on a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.engine.evaluate(x, t)
        return {"flops": counter.get_total_flops()}

    def product(self, precision: str) -> dict[str, Any]:
        from guided_diffusion.build import matrix_rate

        return {"rate": matrix_rate(torch.device(self.device), precision, now=self.now)}

    def memory(self) -> dict[str, Any]:
        weights = sum(p.numel() * p.element_size() for p in self.engine.network.parameters())
        return {"weights": weights, "empty": self.empty, "peak": peak_memory()}


def peak_memory() -> int:
    """Bytes that this process has held at most. (getrusage's figure begins with what its parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def serve(requests: TextIO, replies: TextIO) -> None:
    """The first line holds Options, each further one {"do": a Server's method, and its arguments}. Each is
    answered by one line, the method's dict or {"error": one line}."""
    server: Server | None = None
    for line in requests:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        try:
            with torch.no_grad():
                if server is None:
                    server = Server(Options(**request))
                else:
                    reply = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # whatever a peer's code raises: the table shall say so and go on
            reply = {"error": f"{type(error).__name__}: {error}".strip().split("\n")[0]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no reply
    serve(sys.stdin, told)
