"""What a kind of checkpoint of another framework is to whoever reads one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.weights import Weights


@dataclass(frozen=True)
class Pixels:
    """What the network takes: (pixel − mean)/std, three each, in RGB or BGR order, of pixels 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool


@dataclass(frozen=True)
class Description:
    """The network that a checkpoint holds.

    `config` has everything but the mean, which follows from `pixels`. `names` are the checkpoint's modules by
    the paths of ours: of convolutions, batch norms (one a level in heads), group norms and level scales.
    `epsilon` is that of its batch norms. `notes` say what the file does not and was taken as given.
    """

    config: ModelConfig
    names: Mapping[str, str]
    pixels: Pixels
    epsilon: float = 1e-5
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A kind of checkpoint, told by its names.

    - `title`: for people.
    - `marks`: names that all have, `strangers` names that none has.
    - `own`: beginnings of the names that belong to the network. A tensor under them that nothing uses means
      that the network computes something else.
    - `describe`: the network of the weights and of the training's configuration, where there is one.
    """

    title: str
    marks: tuple[str, ...]
    own: tuple[str, ...]
    describe: Callable[[Weights, Recipe | None], Description]
    strangers: tuple[str, ...] = field(default=())
