"""One engine in its own process, driven by lines of JSON from `harness.EngineProcess`; see `serve`.

It runs as a script and imports this package only inside PenumbraEngine: RePaint's package is named
guided_diffusion too, so a process can hold only one of the two.
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
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Trajectory = Callable[[], object]
"""Runs the sampling loop once."""

Options = SimpleNamespace
"""The first request, with these fields:

engine: penumbra, repaint or diffusers.
model: The fields of a ModelConfig.
weights: Path of the weights file.
precision: fp32, tf32, bf16 or fp16; RePaint takes fp32 and fp16, diffusers fp32.
compile: Whether Penumbra's network is compiled.
device: cpu, cuda or cuda:N.
threads: CPU threads.
repaint_dir: Checkout of RePaint, or None.
"""


def clock(device: str, threads: int) -> Callable[[], float]:
    """Return a clock in seconds: the CPU time of this process with one thread on a CPU, else wall time.

    Other programs disturb the CPU time least.
    """
    return time.process_time if threads == 1 and device == "cpu" else time.perf_counter


def synchronise(out: Tensor) -> Tensor:
    """Wait until a GPU has computed a tensor; return it."""
    if out.is_cuda:
        torch.cuda.synchronize(out.device)
    return out


def make_noise(batch: int, side: int, device: str) -> Tensor:
    """Return (B, 3, S, S), the same for every engine."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(side)).to(device)


def make_problem(batch: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, S, S) and a keep mask (B, 1, S, S) whose hole is a box in the middle."""
    keep = torch.ones(batch, 1, side, side, device=device)
    keep[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0
    return make_noise(batch, side, device).clamp(-1, 1), keep


class CountingNetwork:
    """Wraps a network; counts its evaluations and the seconds spent in them."""

    def __init__(self, call: Callable[..., Any], now: Callable[[], float], device: str) -> None:
        self.call, self.now, self.device = call, now, device
        self.nfe, self.seconds = 0, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._synchronise()
        begin = self.now()
        out = self.call(*args, **kwargs)
        self._synchronise()
        self.seconds += self.now() - begin
        self.nfe += 1
        return out

    def _synchronise(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


class PenumbraEngine:
    """This project, set up as the command sets it up."""

    def __init__(self, options: Options) -> None:
        from guided_diffusion import build, checkpoints
        from guided_diffusion.config.schema import ModelConfig
        from guided_diffusion.runtime import device, distributed, graphs, memory
        from guided_diffusion.runtime.inference import prepare_for_inference

        memory.tune_malloc()
        self.device, model = torch.device(options.device), ModelConfig(**options.model)
        distributed.make_current(self.device)
        device.set_tf32(options.precision)
        with torch.device("meta"):
            empty = build.build_network(model)
        loaded = checkpoints.load(empty, options.weights, model.image_size, as_stored=True)
        placed = prepare_for_inference(loaded, self.device, options.precision, model.image_size)
        self.network = self.call = graphs.maybe_compile(placed, options.compile)

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(x, t[:1])  # a Denoiser too gives one time for all images

    def trajectory(
        self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: CountingNetwork
    ) -> Trajectory:
        from guided_diffusion import build
        from guided_diffusion.config.schema import ProcessConfig
        from guided_diffusion.denoiser import Denoiser
        from guided_diffusion.operators import Mask
        from guided_diffusion.samplers import Noise, Problem, sample
        from guided_diffusion.samplers.repaint import RePaint
        from guided_diffusion.scheduler import JumpSchedule

        process, times = build.build_process(ProcessConfig(timestep_respacing=str(schedule["t_T"])))
        denoise = Denoiser(counted, process, times.to(self.device))  # type: ignore[arg-type]  # no Module
        generators = [torch.Generator(self.device).manual_seed(i) for i in range(len(y))]
        problem = Problem(y, Mask(keep), denoise, process, Noise(generators, y.shape[1:]))
        sampler = RePaint(JumpSchedule(**schedule))
        return lambda: [synchronise(step.x) for step in sample(sampler, problem)]


class RePaintEngine:
    """RePaint's published code, from a checkout, called as its test.py calls it.

    It runs with torch's defaults, in float32 or, with its key use_fp16, in float16.
    """

    def __init__(self, options: Options) -> None:
        sys.path.insert(0, options.repaint_dir)
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

    def trajectory(
        self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: CountingNetwork
    ) -> Trajectory:
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


class DiffusersEngine:
    """RePaintPipeline of diffusers in float32, with its own U-Net of the same widths."""

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

    def trajectory(
        self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: CountingNetwork
    ) -> Trajectory:
        pipeline = self.code.RePaintPipeline(self.network, self.code.RePaintScheduler())
        pipeline.set_progress_bar_config(disable=True)
        self.network.forward = counted
        jumps = {key: schedule[key] for key in ("jump_length", "jump_n_sample")}
        return lambda: pipeline(y, keep, num_inference_steps=schedule["t_T"], output_type="np", **jumps)


class Engine(Protocol):
    """The interface of the three engines."""

    network: Any
    """The module that holds the weights."""
    call: Any
    """The network as the engine's sampling loop calls it."""

    def evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's output for x (B, 3, S, S) and t (B,)."""
        ...

    def trajectory(
        self, y: Tensor, keep: Tensor, schedule: Mapping[str, Any], counted: CountingNetwork
    ) -> Trajectory:
        """Return a function that inpaints y (B, 3, S, S) once, with `counted` as the network."""
        ...


ENGINES: dict[str, Callable[[Options], Engine]] = {
    "penumbra": PenumbraEngine,
    "repaint": RePaintEngine,
    "diffusers": DiffusersEngine,
}


class Server:
    """Answers requests about one engine; each public method is a request."""

    def __init__(self, options: Options) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.empty = options, peak_memory()
        self.now, self.device = clock(options.device, options.threads), options.device
        self.engine = ENGINES[options.engine](options)

    def evaluate(self, batch: int, side: int, calls: int) -> dict[str, Any]:
        """Time single NFE; the answer has the seconds of each."""
        x, t = make_noise(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        seconds = []
        for _ in range(calls):
            begin = self.now()
            synchronise(self.engine.evaluate(x, t))
            seconds.append(self.now() - begin)
        return {"seconds": seconds}

    def output(self, batch: int, side: int, path: str) -> dict[str, Any]:
        """Save the network's output, (B, C, S, S) in float32."""
        x, t = make_noise(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        torch.save(self.engine.evaluate(x, t).float().cpu(), path)
        return {}

    def trajectory(self, batch: int, side: int, schedule: Mapping[str, Any]) -> dict[str, Any]:
        """Time one trajectory; the answer has its seconds, those inside the network, and the NFE."""
        counted = CountingNetwork(self.engine.call, self.now, self.device)
        run = self.engine.trajectory(*make_problem(batch, side, self.device), schedule, counted)
        begin = self.now()
        run()
        return {"seconds": self.now() - begin, "inside": counted.seconds, "nfe": counted.nfe}

    def flops(self, batch: int, side: int) -> dict[str, Any]:
        """Count the floating-point operations of one evaluation."""
        x, t = make_noise(batch, side, self.device), torch.full((batch,), 500, device=self.device)
        # the counter does not see fused attention on a CPU
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.engine.evaluate(x, t)
        return {"flops": counter.get_total_flops()}

    def matrix_rate(self, precision: str) -> dict[str, Any]:
        """Measure the FLOP/s of matrix products."""
        from guided_diffusion.runtime.device import matrix_rate

        return {"rate": matrix_rate(torch.device(self.device), precision, now=self.now)}

    def memory(self) -> dict[str, Any]:
        """Return bytes: the weights, the empty process, and the peak so far."""
        weights = sum(p.numel() * p.element_size() for p in self.engine.network.parameters())
        return {"weights": weights, "empty": self.empty, "peak": peak_memory()}


def peak_memory() -> int:
    """Return the peak of this process's resident memory, in bytes. (getrusage would include the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the input ends.

    The first line holds Options, each further line {"do": a method of Server, and its arguments}. The answer
    to each is one line: the method's dict, or {"error": one line}.
    """
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
        except Exception as error:  # an error of a foreign engine becomes one line; others go on
            reply = {"error": f"{type(error).__name__}: {error}".strip().split("\n")[0]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print to stdout; replies must not mix with it
    serve(sys.stdin, replies)
