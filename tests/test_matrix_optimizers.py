"""The defining properties of Muon and SOAP."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tinyworlds.matrix_optimizers import Basis, Muon, Soap, Together, orthogonalized
from tinyworlds.sharding import WHOLE

MUON = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
SOAP = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1, "frequency": 3, "max_side": 100}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(noise(size, size, seed=seed)).Q


def train(optimizer: torch.optim.Optimizer, gradients: dict[nn.Parameter, list[torch.Tensor]]) -> None:
    """A step for each of the gradients of parameters."""
    for step in range(len(next(iter(gradients.values())))):
        for parameter, own in gradients.items():
            parameter.grad = own[step].clone()
        optimizer.step()


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_steps_of_muon_are_nearly_orthogonal(rows, columns, scale):
    """All directions of a matrix are moved about as much, however unlike its gradient was in them."""
    sizes = torch.linspace(1, 0.05, min(rows, columns))
    gradient = rotation(rows, 1)[:, : len(sizes)] @ torch.diag(sizes) @ rotation(columns, 2)[: len(sizes)]
    matrix = nn.Parameter(torch.zeros(rows, columns))
    train(Muon([matrix], **MUON), {matrix: [scale * gradient]})
    lengths = torch.linalg.svdvals(matrix.detach()) / (0.1 * 0.2 * max(rows, columns) ** 0.5)
    assert lengths.min() > 0.6
    assert lengths.max() < 1.25
    directions = gradient.flatten() @ -matrix.detach().flatten()
    assert directions > 0.9 * torch.linalg.matrix_norm(gradient, "nuc") * lengths.min() * 0.02 * 0.1


def test_a_step_of_muon_is_as_large_as_one_of_adamw():
    """Of gradients that change as those of training do: 0.2 to 0.4 times the rate in the mean over entries."""
    sizes = []
    for build in (lambda p: Muon([p], **MUON), lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.1)):
        matrix = nn.Parameter(torch.zeros(48, 64))
        optimizer = build(matrix)
        train(optimizer, {matrix: [noise(48, 64, seed=seed) for seed in range(50)]})
        before = matrix.detach().clone()
        train(optimizer, {matrix: [noise(48, 64, seed=50)]})
        sizes.append(float((matrix.detach() - before).square().mean().sqrt()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.5)


def test_muon_is_torchs_but_for_the_precision():
    """Which computes in bfloat16, and knows neither shares of matrices nor stacks of them."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has none")
    ours, theirs = (nn.Parameter(noise(24, 16)) for _ in range(2))
    gradients = [noise(24, 16, seed=seed) for seed in range(1, 6)]
    train(Muon([ours], **MUON), {ours: gradients})
    train(torch.optim.Muon([theirs], **MUON, adjust_lr_fn="match_rms_adamw"), {theirs: gradients})
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "build", [lambda stack: Muon([stack], **MUON), lambda stack: Soap([stack], **SOAP)], ids=["muon", "soap"]
)
def test_a_stack_of_matrices_is_each_of_them(build):
    stack = nn.Parameter(noise(3, 5, 5))
    matrices = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    gradients = [noise(3, 5, 5, seed=seed) for seed in range(1, 8)]
    train(build(stack), {stack: gradients})
    for index, matrix in enumerate(matrices):
        train(build(matrix), {matrix: [gradient[index] for gradient in gradients]})
        torch.testing.assert_close(stack[index], matrix, atol=1e-4, rtol=1e-4)


def test_soap_is_adam_in_the_eigenbasis():
    """That of the first gradient, as long as no other is due."""
    first, *gradients = [noise(6, 4, seed=seed) for seed in range(12)]
    weight = nn.Parameter(noise(6, 4, seed=99))
    basis = Basis(*(torch.linalg.eigh(product).eigenvectors for product in (first @ first.mT, first.mT @ first)))
    turned = nn.Parameter(basis.into(weight.detach()))
    train(Soap([weight], **{**SOAP, "frequency": 100}), {weight: [first, *gradients]})
    adam = torch.optim.AdamW([turned], lr=0.1, betas=SOAP["betas"], weight_decay=0.1)
    train(adam, {turned: [basis.into(gradient) for gradient in gradients]})
    torch.testing.assert_close(weight.detach(), basis.out_of(turned.detach()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [2, 5, 12])
def test_soap_does_not_see_how_the_problem_is_turned(size):
    """Where weights and gradients are turned, so are its steps; those of Adam are others."""
    left, right = rotation(size, 1), rotation(size, 2)
    gradients = [noise(size, size, seed=seed) @ torch.diag(1.0 + torch.arange(size)) for seed in range(5, 16)]
    plain = nn.Parameter(noise(size, size, seed=3))
    for build, sees in ((Soap, False), (torch.optim.AdamW, True)):
        weight, turned = nn.Parameter(plain.detach().clone()), nn.Parameter(left @ plain.detach() @ right)
        options = SOAP if build is Soap else {"lr": 0.1, "betas": SOAP["betas"], "weight_decay": 0.1}
        train(build([weight], **options), {weight: gradients})
        train(build([turned], **options), {turned: [left @ gradient @ right for gradient in gradients]})
        apart = float((left @ weight.detach() @ right - turned.detach()).abs().max())
        assert (apart > 0.03) == sees, apart


def test_the_basis_of_soap_follows_the_gradients_and_stays_orthogonal():
    gradients = [rotation(8, 3) @ torch.diag(2.0 ** -torch.arange(8)) @ noise(8, 6, seed=seed) for seed in range(200)]
    weight = nn.Parameter(torch.zeros(8, 6))
    optimizer = Soap([weight], **SOAP)
    train(optimizer, {weight: gradients})
    state = optimizer.state[weight]
    for side in ("left", "right"):
        basis, mean = state[f"{side}_basis"], state[f"{side}_mean"]
        torch.testing.assert_close(basis.mT @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
        turned = basis.mT @ mean @ basis
        assert (turned - torch.diag(turned.diagonal())).norm() < 0.35 * mean.norm()
    lengths = (state["left_basis"].mT @ state["left_mean"] @ state["left_basis"]).diagonal()
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


def test_long_sides_are_not_turned():
    weight = nn.Parameter(noise(6, 3, 3))
    convolution, flat = nn.Parameter(noise(6, 2, 3, 3)), nn.Parameter(noise(6, 18))
    with torch.no_grad():
        convolution.copy_(flat.view(6, 2, 3, 3))
    optimizer = Soap([weight, convolution], **{**SOAP, "max_side": 10})
    gradients = [noise(6, 18, seed=seed) for seed in range(1, 8)]
    train(optimizer, {convolution: [gradient.view(6, 2, 3, 3) for gradient in gradients]})
    assert set(optimizer.state[convolution]) == {"exp_avg", "exp_avg_sq", "left_mean", "left_basis"}
    train(Soap([flat], **{**SOAP, "max_side": 10}), {flat: gradients})
    assert torch.equal(convolution.flatten(1), flat)
    untouched, adam = (nn.Parameter(noise(6, 18)) for _ in range(2))
    train(Soap([untouched], **{**SOAP, "max_side": 1}), {untouched: gradients})
    train(torch.optim.AdamW([adam], lr=0.1, betas=SOAP["betas"], weight_decay=0.1), {adam: gradients[1:]})
    torch.testing.assert_close(untouched, adam)


def test_what_gives_no_gradient_yet_is_left_alone():
    """And a gradient of nothing gives no more than a step of the decay."""
    for build, options in ((Muon, MUON), (Soap, SOAP)):
        used, unused = nn.Parameter(noise(4, 5)), nn.Parameter(noise(4, 5))
        before = unused.detach().clone()
        optimizer = build([used, unused], **options)
        train(optimizer, {used: [torch.zeros(4, 5)] * 4})
        assert torch.equal(unused, before)
        assert torch.isfinite(used).all()
        assert used.norm() < before.norm()


def test_several_optimizers_are_one():
    """Its groups and its state are theirs, also once other ones were loaded, and it obeys a closure."""
    first, second = nn.Parameter(noise(4, 5)), nn.Parameter(noise(7))
    copies = [nn.Parameter(p.detach().clone()) for p in (first, second)]
    adamw = {"lr": 0.1, "weight_decay": 0.1}
    both = Together([Muon([first], **MUON), torch.optim.AdamW([second], **adamw)])
    alone = [Muon([copies[0]], **MUON), torch.optim.AdamW([copies[1]], **adamw)]
    gradients = [[noise(4, 5, seed=seed), noise(7, seed=seed)] for seed in range(6)]
    for step, own in enumerate(gradients):
        if step == 3:
            both.load_state_dict(copy.deepcopy(both.state_dict()))
        for group in both.param_groups:
            group["lr"] *= 0.5
        for optimizer, parameter, gradient in zip(alone, copies, own, strict=True):
            optimizer.param_groups[0]["lr"] *= 0.5
            parameter.grad = gradient.clone()
            optimizer.step()

        def closure(own=own):
            assert torch.is_grad_enabled()
            first.grad, second.grad = (gradient.clone() for gradient in own)
            return 7.0

        assert both.step(closure) == 7.0
    assert torch.equal(first, copies[0])
    assert torch.equal(second, copies[1])
    assert set(both.state) == {first, second}


@pytest.mark.parametrize("build", [lambda p: Muon([p], **MUON), lambda p: Soap([p], **SOAP)], ids=["muon", "soap"])
def test_mixed_precision_scales_nothing_but_gradients(build):
    """Steps are those without scaling, and one whose gradients are infinite is left out."""
    scaled, plain = (nn.Parameter(noise(4, 5)) for _ in range(2))
    optimizers = [Together([build(p), torch.optim.AdamW([nn.Parameter(noise(3))])]) for p in (scaled, plain)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        gradient = noise(4, 5, seed=step)
        for parameter, factor in ((scaled, scaler.scale(torch.tensor(1.0))), (plain, torch.tensor(1.0))):
            parameter.grad = factor * gradient
        scaler.unscale_(optimizers[0])
        torch.nn.utils.clip_grad_norm_([scaled], 1.0)
        torch.nn.utils.clip_grad_norm_([plain], 1.0)
        scaler.step(optimizers[0])
        scaler.update()
        optimizers[1].step()
    torch.testing.assert_close(scaled, plain)
    scaled.grad = torch.full((4, 5), torch.inf)
    before = scaled.detach().clone()
    scaler.step(optimizers[0])
    assert torch.equal(scaled, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_made_orthogonal_keeps_its_type(dtype):
    made = orthogonalized(noise(5, 9).to(dtype))
    assert made.dtype == dtype
    lengths = torch.linalg.svdvals(made.float())
    assert lengths.min() > 0.6
    assert lengths.max() < 1.25


class Weights(nn.Module):
    """Weights whose gradients are what it is given; one has fewer rows than there are processes."""

    SHAPES = ((6, 6), (1, 5), (3, 6), (7, 2, 3, 3), (5,))

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(noise(*shape) for shape in self.SHAPES)

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(w * g).sum() for w, g in zip(self.weights, gradients, strict=True)]).sum()


def optimized(model: Weights) -> list[Together]:
    *matrices, convolution, vector = model.weights
    rest = torch.optim.AdamW([vector], lr=0.1, fused=True)
    return [Together([Muon(matrices, **MUON), rest]), Together([Soap([*matrices, convolution], **SOAP), rest])]


def steps_of(model: Weights, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model([noise(*shape, seed=step) for shape in Weights.SHAPES]).backward()
        optimizer.step()


def in_a_rank(rank: int, folder: Path) -> None:
    """Whole weights and states after four steps, and after three more from those that one process has after four."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for index, whole in enumerate(torch.load(folder / "states.pt")):
        model = fully_shard(Weights(), mesh=mesh)
        optimizer = optimized(model)[index]
        steps_of(model, optimizer, range(4))
        states = [get_state_dict(model, optimizer, options=WHOLE)]
        model = fully_shard(Weights(), mesh=mesh)
        optimizer = optimized(model)[index]
        set_state_dict(model, optimizer, model_state_dict=whole[0], optim_state_dict=whole[1], options=WHOLE)
        steps_of(model, optimizer, range(4, 7))
        states.append(get_state_dict(model, optimizer, options=WHOLE))
        if rank == 0:
            torch.save(states, folder / f"{index}.pt")
    dist.destroy_process_group()  # its threads, left running, can end the process with an abort


@pytest.mark.slow
def test_processes_that_share_matrices_compute_what_one_does(tmp_path):
    """And go on from its state as it does."""
    states: list[list[object]] = [[], []]
    for index, kept in enumerate(states):
        model = Weights()
        optimizer = optimized(model)[index]
        for steps in (range(4), range(4, 7)):
            steps_of(model, optimizer, steps)
            kept.append(copy.deepcopy(get_state_dict(model, optimizer, options=WHOLE)))
    torch.save([kept[0] for kept in states], tmp_path / "states.pt")
    mp.spawn(in_a_rank, (tmp_path,), nprocs=2)
    for index, kept in enumerate(states):
        for shared, alone in zip(torch.load(tmp_path / f"{index}.pt"), kept, strict=True):
            assert [group.get("step") for group in shared[1]["param_groups"]] == [
                group.get("step") for group in alone[1]["param_groups"]
            ]
            for one, other in zip((shared[0], shared[1]["state"]), (alone[0], alone[1]["state"]), strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
