"""The tutorials' MLP, 784-128-64-10, with PyTorch's conventions and with Keras'.

Linear, BN, ReLU; Adam, batches of 32, a fifth of the images held out for validation. PyTorch's
conventions: its initial weights, ε = 1e-5, momentum 0.1. Keras': Glorot's initial weights, biases
0, ε = 1e-3, running = 0.99 · running + 0.01 · batch, Adam's ε 1e-7. Where PyTorch or Keras (with
its KERAS_BACKEND) is installed, it trains from the same initial weights on the same batches.
Momentum here means the share of the new batch, as in fastbn. Roughness is the mean absolute second
difference of the validation loss over the epochs, late roughness that of the second half; seconds
are those of training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fastbn import nn, optim
from fastbn.experiments import keras_pytorch_mlp_peers, sources, training
from fastbn.experiments.experiment import Claim, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

PYTORCH, KERAS = "BN", "BN, Keras' conventions"
OPTIONS: Mapping[str, dict[str, Any]] = {
    "no BN": {"bn": False},
    PYTORCH: {},
    KERAS: {"keras": True, "eps": 1e-3, "momentum": 0.01},
    "no BN, rate 0.01": {"bn": False, "lr": 1e-2},
    "BN, rate 0.01": {"lr": 1e-2},
    "no BN, rate 0.1": {"bn": False, "lr": 1e-1},
    "BN, rate 0.1": {"lr": 1e-1},
    "no BN, weights × 5": {"bn": False, "scale": 5.0},
    "BN, weights × 5": {"scale": 5.0},
    "BN, ε 0.001": {"eps": 1e-3},
    "BN, momentum 0.01": {"momentum": 0.01},
    "BN, momentum 0.5": {"momentum": 0.5},
    "BN, momentum 1": {"momentum": 1.0},
}
FIRST = 100  # steps whose losses are compared with the peer's


@dataclass(frozen=True)
class Settings:
    """The tutorials' epochs and batches, on a fifth of the images."""

    data: tuple[str, ...] = ("mnist",)
    images: int = 12_000
    hidden: tuple[int, ...] = (128, 64)
    batch_size: int = 32
    epochs: int = 10
    validation: float = 0.2


def build(
    settings: Settings,
    inputs: int,
    seed: int,
    *,
    bn: bool = True,
    keras: bool = False,
    eps: float = 1e-5,
    momentum: float = 0.1,
    scale: float = 1.0,
) -> nn.Sequential:
    """Return a network."""
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for outputs in (*settings.hidden, 10):
        linear = nn.Linear(inputs, outputs, rng=rng)
        state = linear.state_dict()
        if keras:
            bound = (6 / (inputs + outputs)) ** 0.5
            state = {
                "weight": rng.uniform(-bound, bound, (outputs, inputs)),
                "bias": np.zeros(outputs),
            }
        linear.load_state_dict({name: value * scale for name, value in state.items()})
        norm = [nn.BatchNorm(outputs, eps, momentum)] if bn else []
        layers += [linear, *norm, nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers[: -2 if bn else -1])


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return the curves of a network, here or at the peer of that name."""
    data = training.load(settings.data[0], settings.images, 2000)
    peer = keras_pytorch_mlp_peers.PEERS.get(network)
    options = dict(OPTIONS[KERAS if network == "Keras" else network if not peer else PYTORCH])
    lr = options.pop("lr", 1e-3)
    net = build(settings, int(np.prod(data.input_shape)), seed, **options)
    eps = 1e-7 if options.get("keras") else 1e-8
    trainer = Trainer(net, optimizer=optim.Adam(net.parameters(), lr=lr, eps=eps))
    first = training.Watch(range(1, FIRST + 1), training.last_loss)
    given = data, 0 if peer else settings.epochs, settings.batch_size, settings.validation
    history = trainer.fit(*given, rng=seed, callbacks=[first], progress=False)
    if peer:
        assert trainer.plan is not None
        rows = peer(net, trainer.plan.batches, trainer.plan.validation, settings.epochs, FIRST)
    else:
        rows = {
            "first": first.values,
            "loss": history.loss,
            "val_loss": history.val_loss,
            "val_accuracy": history.val_accuracy,
            "seconds": [epoch.seconds for epoch in history.epochs],
        }
    bends = np.diff(rows["val_loss"], 2)
    return rows | {
        "final_accuracy": rows["val_accuracy"][-1],
        "final_loss": rows["val_loss"][-1],
        "roughness": float(np.abs(bends).mean()),
        "late_roughness": float(np.abs(bends[len(bends) // 2 :]).mean()),
        "seconds_an_epoch": float(np.median(rows["seconds"])),
    }


def judge(results: Results) -> list[Claim]:
    """Set what the tutorial says beside what was measured."""
    D = sources.TUTORIAL_D

    def of(network: str, key: str = "final_accuracy") -> Spread:
        return results.spread(network, key)

    def compare(*networks: str, key: str = "final_accuracy", form: str = ".2%") -> str:
        return "; ".join(f"{network} {of(network, key):{form}}" for network in networks)

    def loss(what: str) -> float:
        """Accuracy that is lost by a change of the network."""
        return of(what.partition(",")[0]).mean - of(what).mean

    rates = ("no BN, rate 0.01", "BN, rate 0.01", "no BN, rate 0.1", "BN, rate 0.1")
    momenta = ("BN, momentum 0.01", "BN", "BN, momentum 0.5", "BN, momentum 1")
    late = [of(network, "late_roughness") for network in momenta]
    rough = [of(network, "roughness").mean for network in momenta]
    # Accuracy with BN, at the training loss that the network without BN ends with, less that one's.
    (losses, accuracies), (plain, ends) = (
        (results.series(n, "loss"), results.series(n, "val_accuracy")) for n in ("BN", "no BN")
    )
    equal = Spread(
        [
            float(np.interp(-loss[-1], -better, accuracy) - end[-1])
            for better, accuracy, loss, end in zip(losses, accuracies, plain, ends, strict=True)
        ]
    )
    claims = [
        Claim(D, "BN reaches a better accuracy.", verdict(of("BN").mean > of("no BN").mean),
              compare("BN", "no BN"), "curves"),
        Claim(D, "BN allows higher learning rates.",
              verdict(*(loss(f"BN, rate {r}") < loss(f"no BN, rate {r}") for r in ("0.01", "0.1"))),
              compare(*rates, form=".1%"), "accuracy"),
        Claim(D, "BN is less sensitive to initial values.",
              verdict(loss("BN, weights × 5") < loss("no BN, weights × 5")),
              compare("BN, weights × 5", "no BN, weights × 5"), "accuracy"),
        Claim(sources.TUTORIAL_C, "BN's other merits follow from faster learning.",
              verdict(abs(equal.mean) < max(0.002, equal.std)),
              "Accuracy with BN, at the training loss that the network without BN ends with, less "
              f"that one's: {equal:+.2%}", "curves"),
        Claim(D, "ε is 1e-5 or 1e-3: both will do.",
              verdict(abs(loss("BN, ε 0.001")) < max(0.002, 2 * of("BN").std)),
              compare("BN", "BN, ε 0.001"), "accuracy"),
        Claim(D, "A larger momentum (Keras' sense: a smaller share of the batch) is steadier.",
              verdict(*(a < b for a, b in pairwise(rough))),
              "Roughness: " + compare(*momenta, key="roughness", form=".4f"), "accuracy"),
        Claim(D, "A larger momentum may be unstable late in training.",
              verdict(late[0].mean - late[1].mean > max(late[0].std, late[1].std)),
              compare(*momenta, key="late_roughness", form=".4f"), "accuracy"),
    ]  # fmt: skip
    for peer, ours in (("PyTorch", PYTORCH), ("Keras", KERAS)):
        if peer in results.networks:
            apart = results.series(ours, "first") - results.series(peer, "first")
            apart, end = np.nanmax(np.abs(apart)), abs(of(ours).mean - of(peer).mean)
            claims.append(
                Claim(D, f"{peer} computes the same: its curves lie on top of these.",
                      verdict(bool(apart < 1e-3), end < max(0.002, 2 * of(ours).std)),
                      f"Losses of the first {FIRST} steps differ by {apart:.1e} at most; "
                      f"{compare(ours, peer)}; seconds an epoch: "
                      f"{compare(ours, peer, key='seconds_an_epoch', form='.2f')}", "curves")
            )  # fmt: skip
    return claims


experiment = Experiment(
    name="keras-pytorch-mlp",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), images=1437, epochs=4),
    networks=lambda settings: [*OPTIONS, *keras_pytorch_mlp_peers.installed()],
    measure=measure,
    judge=judge,
    draw=lambda results: keras_pytorch_mlp_peers.draw(results, ["no BN", PYTORCH, KERAS]),
)
