"""What every config starts from: the paper's CIFAR-10 training of a continuous VP model.

A config is a difference from this one. Parts that have few options are written as a call, such as
"VP(beta_max=20.0)"; an override is `--config.sde='VP(beta_max=10.0)'`. `python main.py --help`
tells the modes; a wrong name or field is answered with the right ones.
"""

import dataclasses
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from score_sde.config import parse
from score_sde.nets.ncsnpp import NCSNpp


def net_fields(name: str, cls: type[nn.Module], **changes: Any) -> ConfigDict:
    """The part `net` for a network of this name and class: all its fields, some changed."""
    net = ConfigDict({"name": name})
    for field in dataclasses.fields(cls):
        if field.name not in ("parent", "name"):
            unset = placeholder(int if field.type == "int | None" else str)  # str: a dtype
            # where one number or several are possible, the type is that of the value here
            several = isinstance(changes.get(field.name), tuple)
            value = changes.pop(field.name) if several else field.default
            net[field.name] = unset if value is None else value
    net.update(changes)
    return net


class Config(ConfigDict):
    """A ConfigDict in which a part with a name can be set by a call too:
    `config.codec = "autoencoder(workdir='runs/autoencoder')"`."""

    def __setitem__(self, key: str, value: Any) -> None:
        part = self.get(key) if isinstance(value, str) else None
        if isinstance(part, ConfigDict) and "name" in part:
            value = part_of(value)
        if isinstance(value, dict):  # a part of a plain class, which the command line can replace
            value = ConfigDict(value)
        super().__setitem__(key, value)


def part_of(call: str) -> ConfigDict:
    """A part of a config, such as `codec`, of a call such as "pixels(centered=True)".

    Raises:
      ConfigError: it reads otherwise.
    """
    name, options = parse(call)
    return ConfigDict({"name": name, **options})


def get_config() -> ConfigDict:
    """The fields of every config, with their defaults."""
    config = Config()
    config.seed = 0  # of all random numbers: the first parameters, the order of data, the noise

    # The model
    config.sde = "VP"  # score_sde.processes
    config.parametrization = "eps"  # score_sde.models.parametrization: what the network predicts
    config.c_noise = "time(scale=999.0)"  # ... and how it is told the noise level
    config.net = net_fields("ncsnpp.NCSNpp", NCSNpp)

    # score_sde.codecs: how the image, or what else is learnt, becomes real numbers
    config.codec = ConfigDict(
        {
            "name": "pixels",
            "centered": True,  # [-1, 1], else [0, 1]
            "dequantize": False,  # add uniform noise of one value in training
            "truncate": False,  # 255 x to whole numbers as the 2021 code; False rounds
        }
    )
    config.conditioner = "labels"  # score_sde.conditioning: what the network is told

    # score_sde.data: the loader and its options; None is the loader's default
    config.data = ConfigDict(
        {
            "name": "tfds",
            "dataset": placeholder(str),
            "path": placeholder(str),
            "data_dir": placeholder(str),
            "image_size": placeholder(int),
            "channels": placeholder(int),
            "num_values": placeholder(int),  # how many values a pixel has
            "train_split": placeholder(str),
            "test_split": placeholder(str),
            "test_fraction": placeholder(float),
            "memory": placeholder(bool),
            "augment": "flip",  # score_sde.data.augment: mirror at random; or "none"
        }
    )

    # score_sde.models.adapters: trains a small tree over the frozen network of another workdir
    config.adapter = placeholder(str)

    config.objective = ConfigDict(
        {
            "name": "denoising",  # score_sde.training.objectives, with the fields of it
            "time_law": "uniform",  # score_sde.training.time_law
            "drop_cond": 0.0,  # how often an example loses its label, for classifier_free guidance
            "weighting": "simple",  # score_sde.training.weighting
            "reduction": "mean",  # over dimensions; or "sum", half of the sum
        }
    )

    config.optim = ConfigDict(
        {
            "learning_rate": 2e-4,
            "warmup": 5000,  # steps
            "schedule": "constant",  # score_sde.training.schedules: after the warm-up
            "clip": 1.0,  # global gradient norm; 0 for none
            # one of optax's, such as "adamw(b2=0.99)", "radam", "contrib.muon(beta=0.95)"
            "optimizer": "adamw(weight_decay=0.0)",
            # score_sde.training.constraints: what weights are brought to after each update
            "constraint": "none",
        }
    )

    # The devices are a mesh [data, fsdp] (score_sde.runtime.mesh): every mode uses all of them
    config.mesh = ConfigDict(
        {
            "fsdp": 1,  # into how many parts parameters, averages and the optimiser's state are cut
        }
    )

    config.train = ConfigDict(
        {
            "steps": 1_300_000,
            "batch_size": 128,  # over all devices
            "accumulate": 1,  # into how many parts a batch is cut, one after the other
            "steps_per_call": 0,  # 0: one on the CPU, ten elsewhere
            "log_every": 50,
            "checkpoint_every": 10_000,
            "sample_every": 50_000,  # 0 for never
            "keep": 3,  # checkpoints
            "non_finite": "stop",  # at a loss or gradient that is not finite; or "skip" its step
            # skip steps whose gradient's norm is so many times the recent one (after optim.clip)
            "spike": 0.0,
            "spike_after": 100,  # nothing is a spike before so many updates
            "max_skipped": 10,  # in a row; one more stops the run
            "ema_rates": (0.9999,),
            "ema_warmup": False,
            "ema_ramp": 0.0,  # half-lives of at most this share of the steps so far; EDM: 0.05
            # lengths of stored power-function averages, such as (0.05, 0.1); with them
            # sampling.ema_length can be any other
            "ema_lengths": (),
            "ema_every": 10_000,  # steps
            "ema_dtype": "float32",  # or "float16"
        }
    )

    config.sampling = ConfigDict(
        {
            "solver": "euler_maruyama",  # score_sde.solvers
            "grid": "uniform",  # score_sde.sampling.grids
            "steps": 1000,
            "t_min": placeholder(float),  # where sampling ends; None: at the process's own t_min
            "denoise": True,  # end with E[x_0 | x]
            "labels": (),  # the classes of the samples in turn, -1 for none; (): each at random
            "prompts": (),  # the texts of the samples in turn; (): captions of test examples
            # score_sde.evaluation.worlds: its grammar makes the prompts, one for each sample
            "world": placeholder(str),
            "negative": (),  # labels or prompts that guidance leads away from; (): no condition
            "guidance": placeholder(str),  # score_sde.models.guidance
            "threshold": placeholder(str),  # score_sde.models.thresholding
            # score_sde.models.covariance: the variance of a step that a denoiser implies, for
            # ancestral(variance='learned'); None: that which the network has learnt
            "variance": placeholder(str),
            "window": placeholder(int),  # steps iterated together (sampling.parallel)
            "tolerance": 1e-2,  # of that iteration, relative to x
            # score_sde.sampling.paths: what a stochastic solver draws; with "path" a finer grid
            # refines the same sample
            "noise": "independent",
            # workdirs of adapters over this workdir's network, and the weight of each; (): 1
            "adapters": (),
            "adapter_weights": (),
            # of the ControlNets among them: the times (least, most) between which each acts; ():
            # always; and whether they act less on shallow layers (nets.controlnet.Controlled)
            "control_intervals": (),
            "control_deeper": False,
            "words": (),  # files of textual inversion: words for prompts, read by CLIP
            # a file or folder of images for the samples in turn, of which the conditioner makes
            # hints or finds neighbours, or which instructions change; None: test examples
            "images": placeholder(str),
            "num_samples": 64,
            "batch_size": 64,
            "files": 0,  # mode sample writes so many samples as files, too, such as WAV
            "filters": (),  # score_sde.experiment.filters: which samples mode sample keeps
            "as_data": placeholder(str),  # a folder: mode sample writes a data set there
            "ema": 0,  # which of train.ema_rates, and then of train.ema_lengths
            "ema_length": placeholder(float),  # or any length, of a run with train.ema_lengths
        }
    )

    config.likelihood = ConfigDict(
        {
            "split": "test",
            "batch_size": 128,
            "probes": 1,  # Hutchinson's; 0 for the exact trace
            "rtol": 1e-5,
            "atol": 1e-5,
            "method": "Dopri5",
            # score_sde.sampling.bounds, in the place of the ODE: "elbo(draws=1)" of tokens,
            # "variational(steps=100)", "information(draws=16)", "dequantised(samples=4, probes=0)"
            "bound": placeholder(str),
            "drop_last": False,  # leave out the last batch if it is smaller, as the 2021 code
        }
    )

    config.evaluate = ConfigDict(
        {
            # also likelihood, floor, field, flow_map, copies, reconstruction, adherence,
            # clip_score, usefulness
            "parts": ("loss", "metrics"),
            # "SOLVER" or "SOLVER on GRID", with each number of evaluations; (): config.sampling
            "samplers": (),
            "nfe": (),
            "ema_lengths": (),  # all that with each sampling.ema_length; (): that of the config
            "num_samples": 10_000,
            "features": "pixels",  # score_sde.evaluation.metrics.features
            "split": "train",  # what samples are compared with
            "reference": placeholder(str),  # the file of its summary; None: in the workdir
            "reservoir": 10_000,  # images that metrics of neighbours look at
            "world": placeholder(str),  # score_sde.evaluation.worlds, which adherence reads back
            "clip": placeholder(str),  # a folder of CLIP and its tokenizer, for clip_score
            "num_prompts": 256,  # of combinations seen in training, and as many held out
            "weights": (1.0, 2.0, 3.0, 4.0, 5.0),  # of guidance, for adherence
            "seeds": 3,  # of samples and classifiers, for usefulness
        }
    )

    # Mode `edit`, which samples as `sampling` says
    config.edit = ConfigDict(
        {
            "task": "inpaint",  # score_sde.editing.tasks
            "images": placeholder(str),  # a file, a folder, an .npz; None: test images
            "resize": False,  # images of another size: crop to a square and resize
            "num_images": 8,
            "completions": 4,  # of each image
            "method": "mmps(iterations=2)",  # score_sde.inverse: of tasks that complete
            "particles": 1,  # for each completion by the method "twisted"; 1 for the others
            "noise": 0.0,  # of what is known, in the units of the network's images
        }
    )

    config.export = ConfigDict(
        {
            # what mode `export` writes; or "safetensors"; "kohya" for LoRA, "automatic1111" for the
            # rows of a word
            "format": "diffusers",
        }
    )

    # Mode `pairs`, which samples as `sampling` says: pairs of noise and sample
    config.pairs = ConfigDict(
        {
            "number": 10_000,  # of pairs, all in memory and in DIR/pairs.npz
        }
    )

    # Mode `encode`: what frozen networks make of each example, for data.name="encoded"
    config.encode = ConfigDict(
        {
            "dtype": "float32",  # of real numbers; or "float16", in half of the space
            "batch_size": 64,
        }
    )

    # Mode `restore`, which samples as `sampling` says: x_0 given the known pixels of each example,
    # with data.name="corrupted"
    config.restore = ConfigDict(
        {
            # 0 for the network of the workdir; n for a Gaussian, after n rounds of EM
            "gaussian": 0,
            "method": "mmps(iterations=3)",  # score_sde.inverse
        }
    )

    # A watermark in the samples of mode `sample`, if there is a key; mode `detect` looks for it
    config.watermark = ConfigDict(
        {
            "key": placeholder(int),  # the secret
            "inner": 0.5,  # the ring of frequencies, cycles an image
            "outer": 4.0,
            "p_value": 1e-12,  # the largest p-value of marked noise
            "images": placeholder(str),  # a file, a folder, an .npz; None: DIR/samples.npz
            "resize": False,
            "num_control": 0,  # unmarked test images to look at as well
            "batch_size": 128,
            "decoder_steps": 300,  # of Adam, that invert the decoder; 0: the encoder does
            "rtol": 1e-3,  # of the ODE that inverts
            "atol": 1e-3,
            "method": "Dopri5",
        }
    )

    # Mode `solvers`: error against network evaluations of every solver on every grid
    config.solvers = ConfigDict(
        {
            # score_sde.processes.exact; or "analytic.NAME", of the training examples; None: the
            # checkpoint
            "problem": placeholder(str),
            # score_sde.solvers. A tuple of numbers is swept: "ddim(eta=(0.0, 0.5, 1.0))"
            "solvers": ("ddim", "dpmpp", "heun", "unipc"),
            "grids": ("uniform", "log_snr", "karras"),  # score_sde.sampling.grids
            "nfe": (5, 6, 8, 10, 15, 20, 30, 40),  # budgets of network evaluations
            "tolerances": (1e-1, 1e-2, 1e-3),  # of adaptive solvers, in the place of budgets
            "num_samples": 64,  # in a batch
            "batches": 4,  # all in one call, each with a seed of its own
            "reference_tolerance": 1e-5,  # of the ODE that is the truth
        }
    )
    return config
