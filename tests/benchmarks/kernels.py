"""`python -m tests.benchmarks.kernels`: ways to compute one step and one decode, side by side. Nothing is asserted.

The model is the default one for hourly data: two layers of 64 units, a memory of 168 values. All ways are timed in
turns, by the thread's own processor time, so that other work on the machine hits all of them, and only through the
caches and what two threads of a core share; the figures are medians, in microseconds for each series.
`--compile` adds torch.compile and AOTInductor, which need a C++ compiler and minutes; ONNX Runtime is timed where it is
installed.

Shapes: N series, I inputs, H hidden, C slots.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch._inductor
from torch import Tensor, nn

from forecaster.config import ModelConfig
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State, select
from forecaster.model.stepping import step_kernel
from forecaster.model.stepping.packed_step import PackedStep
from forecaster.model.stepping.stepping import Stepper

HOUR_US = 3_600_000_000
CAPACITY, WINDOW, HIDDEN = 8192, 168, 64
BATCHES = (1, 64, 512, 4096)
BARE = "bare nn.GRU, 12 inputs"

Work = Callable[[], object]


def side_by_side(works: Mapping[str, Work], seconds: float) -> dict[str, float]:
    """Return the median seconds of each work, all of them timed in turns for so long."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
        work()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[next(iter(works))]) < 5:
        for name, work in works.items():
            work()  # what the others left in the caches is not its fault
            began = time.thread_time()
            work()
            times[name].append(time.thread_time() - began)
    return {name: statistics.median(found) for name, found in times.items()}


class Fleet:
    """The model, its slab of states that have seen a window, and N of its series with an observation of each.

    Args:
        n: N.
    """

    def __init__(self, model: Seq2Seq, slab: State, n: int) -> None:
        self.model, self.slab, self.stepper = model, slab, Stepper(model)
        self.slots = torch.randperm(CAPACITY)[:n]
        self.values, self.times = torch.randn(n, dtype=torch.float64), torch.full((n,), WINDOW * HOUR_US)
        window = torch.arange(WINDOW).expand(n, -1) * HOUR_US
        self.window = Observations.of(window, torch.randn(n, WINDOW, dtype=torch.float64))

    def scan(self) -> None:
        """Gather, scan one step, scatter."""
        one = Observations.of(self.times, self.values)
        for name, tensor in self.model.step(select(self.slab, self.slots), one).items():
            self.slab[name].index_copy_(0, self.slots, tensor)

    def predict(self, horizon: int) -> None:
        """Gather and decode."""
        self.model.predict(select(self.slab, self.slots), horizon)

    def packed_step(self) -> None:
        """What serving does."""
        self.stepper.step(self.slab, self.slots, self.times, self.values)

    def packed_predict(self, horizon: int) -> None:
        """What serving does."""
        self.stepper.predict(self.slab, self.slots, horizon)

    def encode(self) -> State:
        """Encode a window anew, as a server without states does for every forecast."""
        return self.model.scan(self.model.initial_state(len(self.slots)), self.window)[0]


def make_slab(model: Seq2Seq) -> State:
    """Return the states of C series after a window."""
    times = torch.arange(WINDOW).expand(CAPACITY, -1) * HOUR_US
    values = torch.randn(CAPACITY, WINDOW, dtype=torch.float64).cumsum(1)
    state, _ = model.scan(model.initial_state(CAPACITY), Observations.of(times, values))
    return {name: tensor.clone() for name, tensor in state.items()}


def bare_step(n: int) -> Work:
    """Return the step of a bare network."""
    network, inputs, hidden = nn.GRU(12, HIDDEN, 2, batch_first=True), torch.randn(n, 1, 12), torch.zeros(2, n, HIDDEN)
    return lambda: network(inputs, hidden)


def cell_works(model: Seq2Seq, n: int) -> dict[str, Work]:
    """Return ways to compute the model's second layer, 64 inputs, from inputs and hidden vectors at hand."""
    layer = model.encoder.layers[1]
    kernel = layer.kernel
    x, h, gates = torch.randn(n, HIDDEN), torch.randn(n, HIDDEN).tanh(), torch.empty(n, 4 * HIDDEN)
    lone = nn.GRUCell(HIDDEN, HIDDEN)
    own = tuple(
        kernel.get_parameter(f"{name}_l0").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    apart, bias = [part.t().split(HIDDEN, dim=1) for part in own[:2]], [part.split(HIDDEN) for part in own[2:]]
    joined = torch.zeros(2 * HIDDEN, 4 * HIDDEN)  # of [x, h] to [n from x, r, z, n from h], zeros in between
    joined[:HIDDEN, : 3 * HIDDEN] = torch.cat([apart[0][k] for k in (2, 0, 1)], dim=1)
    joined[HIDDEN:, HIDDEN:] = torch.cat([apart[1][k] for k in (0, 1, 2)], dim=1)
    start = torch.cat([bias[0][2], bias[0][0] + bias[1][0], bias[0][1] + bias[1][1], bias[1][2]])
    into, back = joined[:HIDDEN, : 3 * HIDDEN].contiguous(), joined[HIDDEN:, HIDDEN:].contiguous()
    turned = joined.T.contiguous()
    both = torch.empty(n, 2 * HIDDEN)

    def point_wise(gates: Tensor) -> Tensor:
        new, middle, recurrent = gates[:, :HIDDEN], gates[:, HIDDEN : 3 * HIDDEN].sigmoid_(), gates[:, 3 * HIDDEN :]
        return torch.lerp(new.addcmul_(middle[:, :HIDDEN], recurrent).tanh_(), h, middle[:, HIDDEN:])

    def two_products() -> Tensor:
        gates.copy_(start)
        gates[:, : 3 * HIDDEN].addmm_(x, into)
        gates[:, HIDDEN:].addmm_(h, back)
        return point_wise(gates)

    def concatenated() -> Tensor:
        both[:, :HIDDEN], both[:, HIDDEN:] = x, h
        return both

    _, upper, hidden_weights, biases = PackedStep([model]).weights
    carried, slots = h.clone()[:, None].numpy(), torch.arange(n).numpy()
    sizes = HIDDEN, 3 * HIDDEN, 3 * HIDDEN, HIDDEN
    inputs, buffers = x.numpy(), tuple(torch.empty(n, size).numpy() for size in sizes)

    def compiled() -> None:
        step_kernel.advance(
            0, inputs, upper[0, 0], hidden_weights[0, 1], biases[0, 1], carried, carried, slots, 0, True, buffers
        )

    low = [tensor.bfloat16() for tensor in (both, joined, start)]
    works: dict[str, Work] = {
        "nn.GRU, T = 1": lambda: kernel(x[:, None], h[None]),
        "nn.GRUCell": lambda: lone(x, h),
        "torch.gru_cell": lambda: torch.gru_cell(x, h, *own),
        "[x, h] in one product, weights [in, out]": lambda: point_wise(torch.addmm(start, concatenated(), joined)),
        "[x, h] in one product, weights [out, in]": lambda: point_wise(
            nn.functional.linear(concatenated(), turned, start)
        ),
        "two products into one buffer": two_products,
        "compiled (used)": compiled,
        "bfloat16, the product only": lambda: torch.addmm(low[2], low[0], low[1]),
    }
    if torch.backends.mkldnn.is_available():
        dense, weight = concatenated(), torch.ops.mkldnn._reorder_linear_weight(turned, n)
        linear = torch.ops.mkldnn._linear_pointwise
        works["oneDNN, prepacked"] = lambda: point_wise(linear(dense, weight, start, "none", [], ""))
    return works | onnx_work(kernel, x, h)


def onnx_work(kernel: nn.GRU, x: Tensor, h: Tensor) -> dict[str, Work]:
    """Return the layer in ONNX Runtime, if it is installed."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    file = io.BytesIO()
    names = {"input_names": ["x", "h"], "output_names": ["y", "n"]}
    torch.onnx.export(kernel, (x[:, None], h[None]), file, dynamo=False, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    inputs = {"x": x[:, None].numpy(), "h": h[None].numpy()}
    return {"ONNX Runtime": lambda: session.run(None, inputs)}


def compiled_work(fleet: Fleet) -> dict[str, Work]:
    """Return the plain scan of gathered states, compiled."""
    step = torch.compile(fleet.model.step, dynamic=False)

    def work() -> None:
        one = Observations.of(fleet.times, fleet.values)
        for name, tensor in step(select(fleet.slab, fleet.slots), one).items():
            fleet.slab[name].index_copy_(0, fleet.slots, tensor)

    ahead = aot_work(fleet)
    return {"step: gather, torch.compile, scatter": work, "step: gather, AOTInductor, scatter": ahead}


def aot_work(fleet: Fleet) -> Work:
    """Return the same, compiled ahead of time into a package of its own, as a server could load it."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = fleet.model

        def forward(self, state: State, times: Tensor, values: Tensor) -> State:
            return self.model.step(state, Observations.of(times, values))

    example = (select(fleet.slab, fleet.slots), fleet.times, fleet.values)
    with torch.inference_mode(False), torch.no_grad(), tempfile.TemporaryDirectory() as name:
        clones = ({name: tensor.clone() for name, tensor in example[0].items()}, *(one.clone() for one in example[1:]))
        exported = torch.export.export(Step(), clones)
        package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{name}/step.pt2")
        loaded = torch._inductor.aoti_load_package(package)

    def work() -> None:
        found = loaded(select(fleet.slab, fleet.slots), fleet.times, fleet.values)
        for name, tensor in found.items():
            fleet.slab[name].index_copy_(0, fleet.slots, tensor)

    return work


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, figures in rows.items():
        print(f"| {name} | {' | '.join(f'{figure:,.2f}' for figure in figures)} |")


def by_batch(tables: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    """Return for each way the microseconds for each series, batch by batch."""
    names = next(iter(tables.values()))
    return {name: [1e6 * table[name] / n for n, table in tables.items()] for name in names}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kernels")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each table and batch")
    parser.add_argument("--compile", action="store_true", help="also torch.compile and AOTInductor")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Seq2Seq(ModelConfig(horizon=48).resolve(HOUR_US), HOUR_US).eval()
    steps: dict[int, dict[str, float]] = {}
    cells: dict[int, dict[str, float]] = {}
    with torch.inference_mode():
        slab = make_slab(model)
        shares = {}
        for n in BATCHES:
            fleet = Fleet(model, slab, n)
            works: dict[str, Work] = {
                BARE: bare_step(n),
                "step: gather, scan, scatter": fleet.scan,
                "step: Stepper": fleet.packed_step,
                "decode 24: gather, predict": lambda f=fleet: f.predict(24),
                "decode 24: Stepper": lambda f=fleet: f.packed_predict(24),
                "decode 48: gather, predict": lambda f=fleet: f.predict(48),
                "decode 48: Stepper": lambda f=fleet: f.packed_predict(48),
            }
            if n <= 64:
                works["168 steps re-encoded"] = fleet.encode
            if options.compile:
                works |= compiled_work(fleet)
            steps[n] = found = side_by_side(works, options.seconds)
            cells[n] = side_by_side(cell_works(model, n), options.seconds)
            if n <= 64:
                anew = found.pop("168 steps re-encoded")
                for horizon in (24, 48):
                    decode = found[f"decode {horizon}: Stepper"]
                    ratio = (found["step: Stepper"] + decode) / (anew + decode)
                    shares[f"step + decode {horizon}, ÷ {WINDOW} steps re-encoded + the same decode, {n} series"] = (
                        ratio
                    )
        show("µs a series, batch of", list(map(str, BATCHES)), by_batch(steps))
        show("one GRU layer, 64 inputs, µs a series, batch of", list(map(str, BATCHES)), by_batch(cells))
    times_bare = steps[512]["step: Stepper"] / steps[512][BARE]
    print(f"\nStepper ÷ bare nn.GRU step, 512 series: {times_bare:.2f}")
    for what, share in shares.items():
        print(f"{what}: {share:.3f}, 1/{1 / share:.0f}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread, torch {torch.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
