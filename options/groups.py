"""The groups of options every run has. A model and a dataset add one group each (their `Options`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from options.schema import Group, OptionError, Size, fields_of, option, shorten

COLORMAPS = ("jet", "rainbow", "turbo", "viridis", "inferno", "magma", "hot", "gray")
MAP_NORMALS = ("minmax", "max", "percentile")
FUSIONS = ("max", "mean")
SCORES = ("logit", "log_probability", "margin", "probability")
EXPLAINED = ("head", "discriminator", "distance")
ASKED_CLASSES = ("auto", "label", "predicted", "both")
NORMS = ("instance", "batch", "none")
CACHES = ("off", "ram", "disk")
SINKS = ("visdom", "tensorboard")


@dataclass(frozen=True)
class Experiment(Group):
    """run: its name, its folder, its seed"""

    name: str = option("experiment_name", "name of the run; its folder is <checkpoints_dir>/<name>")
    model: str = option("cut", "what is trained; without it: cut, or the one model that owns a given flag")
    checkpoints_dir: str = option("./checkpoints", "folder that holds the runs")
    seed: int = option(0, "every random draw of the run follows from it", low=0, high=2**32 - 1)
    continue_train: bool = option(
        False, "continue this run where its last checkpoint stands, with its own options but for flags given"
    )
    pretrained_name: str | None = option(None, "start from the exported weights of this other run")
    epoch: str = option("latest", "which exported weights to load: latest, a number, or iter_NUMBER")
    suffix: str = option("", "added to the name; {model}, {netG}, {load_size} and the like are filled in")
    verbose: bool = option(False, "print the networks layer by layer")


@dataclass(frozen=True)
class Data(Group):
    """data: folders, sizes, intensity windows"""

    dataroot: str = option("", "folder with trainA, trainB, testA, testB (test falls back to val)")
    dataset_mode: str = option("unaligned", "how the folders are read")
    direction: str = option("AtoB", "which domain is the source", choices=("AtoB", "BtoA"))
    serial_batches: bool = option(False, "take images in the order of their names instead of at random")
    num_threads: int = option(4, "worker processes that read images; 0 reads in the main process", low=0)
    batch_size: int = option(1, "images per process and step", low=1)
    load_size: Size = option((286, 286), "images are scaled to this size", low=1)
    crop_size: Size = option((256, 256), "then cropped to this size", low=1)
    max_dataset_size: float = option(math.inf, "at most this many images of each domain", low=1)
    samples_per_epoch: int = option(
        0, "samples that make an epoch, in which rate, saving and logs are counted; 0: the data set once", low=0
    )
    preprocess: str = option(
        "resize_and_crop",
        "words of: resize, scale_width, scale_shortside (only enlarges), zoom, crop, patch, trim, none",
    )
    no_flip: bool = option(False, "do not mirror training images at random")
    window_A: str = option(
        "auto", "intensities of A mapped to black and white: auto, LO,HI in counts, LO%,HI%, or image"
    )
    window_B: str = option("auto", "the same for B; translations are written with B's window")
    on_bad_image: str = option(
        "error",
        "where an image cannot be read: error, or skip it; either way it is named",
        choices=("error", "skip"),
    )
    cache: str = option(
        "off",
        "keep decoded images: in memory (of this run), or in files on a disk (for later runs, too)",
        choices=CACHES,
    )
    cache_gb: float = option(0.0, "at most so many GB (10^9 bytes) of --cache; 0: half of what is free", low=0)
    cache_dir: str = option("", "folder of --cache disk; none: cutcam/pixels in the user's folder of caches")
    augment_on_device: bool = option(
        False, "window, resize, crop and mirror images on the GPU, by the same draws, rather than where they are read"
    )


@dataclass(frozen=True)
class Networks(Group):
    """networks: kinds and sizes of G and D"""

    input_nc: int = option(3, "channels of the source: 3 RGB, 1 grey", low=1, high=3)
    output_nc: int = option(3, "channels of the translation: 3 RGB, 1 grey", low=1, high=3)
    ngf: int = option(64, "channels of G's first convolution", low=1)
    ndf: int = option(64, "channels of D's first convolution", low=1)
    netG: str = option(
        "resnet_9blocks",
        "generator: resnet_9blocks, resnet_6blocks, resnet_4blocks, unet_256, unet_128, stylegan2, smallstylegan2",
    )
    netD: str = option("basic", "discriminator: basic (70x70 PatchGAN), n_layers, pixel, stylegan2, tilestylegan2")
    n_layers_D: int = option(3, "levels of --netD n_layers", low=1, high=8)
    stylegan2_G_num_downsampling: int = option(1, "halvings in --netG stylegan2", low=0, high=5)
    D_patch_size: int = option(64, "pixels of a side of the tiles that --netD tilestylegan2 judges", low=8)
    mbstd_group: int = option(
        4, "images whose spread --netD stylegan2 sees (minibatch standard deviation); 0: none", low=0
    )
    normG: str = option("instance", "normalisation in G", choices=NORMS)
    normD: str = option("instance", "normalisation in D", choices=NORMS)
    spectral_norm: bool = option(False, "divide D's convolutions by their largest singular values")
    init_type: str = option("xavier", "initial weights", choices=("normal", "xavier", "kaiming", "orthogonal"))
    init_gain: float = option(0.02, "scale of normal, xavier and orthogonal initial weights", low=0)
    no_dropout: bool = option(True, "False puts dropout 0.5 into G")
    no_antialias: bool = option(False, "strided convolutions instead of blurred down-sampling")
    no_antialias_up: bool = option(False, "strided transposed convolutions instead of blurred up-sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in ("input_nc", "output_nc"):
            if getattr(self, flag) == 2:
                raise OptionError(f"--{flag} 2: images have 1 channel (grey) or 3 (RGB)")


# What shapes G and D or is about their game, for models that have neither.
OF_TRANSLATORS = frozenset(fields_of(Networks)) - {"input_nc", "output_nc"} | {"gan_mode"}


@dataclass(frozen=True)
class Optim(Group):
    """optimisation: an optimiser for each network, adversarial loss, precision"""

    lr: float = option(0.0002, "learning rate", low=0)
    beta1: float = option(0.5, "Adam's decay of the gradient's mean", low=0, high=0.999999)
    beta2: float = option(0.999, "Adam's decay of the gradient's variance", low=0, high=0.999999)
    optimizer: str = option(
        "adam", "adam and sgd add weight_decay to the gradient, adamw to the step", choices=("adam", "adamw", "sgd")
    )
    weight_decay: float = option(0.0, "weights are drawn towards 0 by this factor", low=0)
    momentum: float = option(0.0, "of --optimizer sgd", low=0, high=0.999999)
    nesterov: bool = option(False, "Nesterov's momentum for --optimizer sgd")
    gan_mode: str = option(
        "lsgan", "adversarial loss", choices=("lsgan", "vanilla", "nonsaturating", "wgangp", "hinge")
    )
    accumulate: int = option(
        1, "batches whose gradients make one step, at the memory of one; D learns after G has asked it", low=1
    )
    ema_decay: float = option(
        0.999, "exported weights are averages over steps with this decay; 0: the last weights", low=0, high=0.999999
    )
    amp: str = option("off", "16-bit forward passes by autocast", choices=("off", "bf16", "fp16"))
    on_nan: str = option(
        "stop",
        "where a loss is not finite: stop, or skip the step; either way its images are named in nonfinite.jsonl",
        choices=("stop", "skip"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise OptionError("--nesterov: needs a --momentum above 0")


@dataclass(frozen=True)
class Schedule(Group):
    """schedule: epochs and learning rate"""

    n_epochs: int = option(200, "epochs at the first learning rate", low=0)
    n_epochs_decay: int = option(200, "epochs after those, in which --lr_policy linear falls to zero", low=0)
    epoch_count: int = option(1, "number of the first epoch", low=1)
    max_iters: int = option(0, "stop after this many steps; 0: when the epochs are done", low=0)
    lr_policy: str = option(
        "linear",
        "how the learning rate falls; cosine: to zero at the end of all epochs",
        choices=("linear", "step", "plateau", "cosine", "none"),
    )
    lr_decay_iters: int = option(50, "epochs between the falls of --lr_policy step", low=1)
    lr_gamma: float = option(0.1, "of the learning rate at a fall of --lr_policy step", low=0, high=1)
    plateau_factor: float = option(0.2, "of the learning rate at a fall of --lr_policy plateau", low=0, high=0.999999)
    plateau_patience: int = option(5, "epochs without a lower loss before a fall of --lr_policy plateau", low=0)
    plateau_threshold: float = option(0.01, "share of the loss by which a lower one must be lower", low=0, high=1)
    plateau_min_lr: float = option(0.0, "--lr_policy plateau falls no further", low=0)

    @property
    def last_epoch(self) -> int:
        """Number of the run's last epoch."""
        return self.n_epochs + self.n_epochs_decay


@dataclass(frozen=True)
class Log(Group):
    """log: console, pages, dashboard, checkpoints (frequencies in images seen unless said)"""

    print_freq: int = option(100, "losses to console and log", low=1)
    display_freq: int = option(400, "pictures to the dashboard", low=1)
    update_html_freq: int = option(1000, "pictures to the HTML page", low=1)
    sinks: tuple[str, ...] = option(("visdom",), "dashboards beside console, log and page", choices=SINKS)
    no_html: bool = option(False, "write no HTML page of intermediate pictures")
    display_id: int | None = option(None, "visdom: 0 or less turns it off; any other number, or none, turns it on")
    display_server: str = option("http://localhost", "visdom: address of the server")
    display_port: int = option(8097, "visdom: port of the server", low=1, high=65535)
    display_env: str = option("main", "visdom: environment; main stands for the run's name")
    display_ncols: int = option(4, "visdom: pictures in a row", low=1)
    save_latest_freq: int = option(5000, "checkpoint to continue from", low=1)
    save_epoch_freq: int = option(5, "export weights under the epoch's number, in epochs", low=1)
    save_by_iter: bool = option(False, "export under iter_NUMBER as well at every --save_latest_freq")
    panel_freq: int = option(5, "panel of fixed inputs with translations (and CAMs), in epochs; 0: none", low=0)
    monitor_freq: int = option(500, "gradient norm of each loss on its networks, in steps; 0: never", low=0)
    eval_freq: int = option(0, "measure the weights as scripts/evaluate.py does, in epochs; 0: never", low=0)
    eval_metrics: tuple[str, ...] = option(
        (), "measures of --eval_freq; none: every one that can be computed but transfer, the longest"
    )
    eval_phase: str = option("", "images of --eval_freq; none: val where there is valA, else test")
    eval_num: int = option(200, "at most this many images at --eval_freq", low=2)
    quiet: bool = option(False, "no progress bar and no lines of losses on the console")


@dataclass(frozen=True)
class Runtime(Group):
    """machine"""

    gpu_ids: str = option("auto", "GPU to use, for example 0; -1: CPU; auto: GPU 0 if there is one. Several: torchrun")
    fast: bool = option(False, "whatever makes networks faster on this device, with the same precision; it is printed")
    channels_last: bool = option(
        False, "channels of a position beside each other in memory (in --fast on a GPU, and with --amp)"
    )
    compile: bool = option(False, "residual blocks by torch.compile, where there is a compiler")
    checkpoint_blocks: bool = option(
        False, "a ResNet G keeps the inputs of its blocks and little else, and computes the rest twice: less memory"
    )


@dataclass(frozen=True)
class Inference(Group):
    """inference: what is translated, where to"""

    phase: str = option("test", "prefix of the folder to read (or --split): test falls back to val", aliases=("split",))
    num_test: int = option(50, "at most this many images", low=1)
    results_dir: str = option("./results/", "folder of the results", aliases=("output_path",))
    tile: int = option(
        0,
        "images go at their own size, larger ones in tiles of so many pixels, with the whole image's norms; 0: off",
        low=0,
    )
    eval: bool = option(False, "networks in evaluation mode (matters with batch norm or dropout)")


@dataclass(frozen=True)
class Given(Group):
    """pictures given: without a data set or its folders"""

    input: str | None = option(None, "translate this file, folder, glob or video (8-bit runs) instead of --phase")
    output: str | None = option(None, "folder of what --input becomes; none: <results_dir>/<name>/given")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.input is None:
            raise OptionError(f"--output {shorten(self.output)}: belongs to --input; a split goes to --results_dir")


@dataclass(frozen=True)
class MeasuredInference(Inference):
    """inference: what is translated, where to"""

    num_test: int = option(0, "at most this many images, at equal distances in the order of names; 0: all", low=0)


@dataclass(frozen=True)
class Explanation(Group):
    """explanation: class activation maps"""

    image: str | None = option(None, "explain this file, folder or glob, rather than what the next three choose")
    random: int = option(0, "explain so many images of the split, drawn by --seed", low=0)
    index: int | None = option(None, "explain this image of the split, counted from 0", low=0)
    class_idx: int = option(
        -1, "class explained; -1: a head's is the input's label, else its choice; a classifier's its choice", low=-1
    )
    top_k: int = option(1, "explain so many of the likeliest classes instead", low=1)
    explained: str = option(
        "auto",
        "class explained where neither is given: the image's label, the network's choice, or both where they differ",
        choices=ASKED_CLASSES,
    )
    fcam: str | None = option(None, "full-resolution maps by this run of --model fcam: its folder, or its name")
    explain: str | None = option(
        None, "of a translation run: its class head, D's decision, or how far G(x) is from x", choices=EXPLAINED
    )
    explain_with: tuple[str, ...] = option(
        (), "methods (or --cam_method), such as gradcam,eigencam; all: every one that applies", aliases=("cam_method",)
    )
    method_settings: tuple[str, ...] = option(
        (), "settings of the methods, METHOD.SETTING=VALUE: scorecam.channels=64,smoothgradcam++.samples=16"
    )
    layer: str = option("auto", "layer of the maps: its name, or its number from 0, -1 for the last; auto: the best")
    layers: tuple[str, ...] = option((), "draw the maps of these layers side by side: names, numbers, patterns")
    fuse: str | None = option(
        None, "one map of those of --layers, scaled as LayerCAM's: their greatest value or their mean", choices=FUSIONS
    )
    score: str = option(
        "logit",
        "what is explained of a class; margin: its logit less the next; probability: older name of log_probability",
        choices=SCORES,
    )
    normalize: str = option(
        "minmax", "what becomes 0 and 1 in a map: its ends, 0 and its maximum, or 0 and its 98 %", choices=MAP_NORMALS
    )
    patches: tuple[int, ...] = option(
        (), "of --explain discriminator: TOP,LEFT,BOTTOM,RIGHT in cells of D's answer; none: all", low=0
    )
    colormap: str = option("jet", "colours of a map", choices=COLORMAPS)
    overlay_strength: float = option(0.5, "share of the map's colours in an overlay", low=0, high=1)
    maps_only: bool = option(False, "write raw maps and their manifest, but no pictures: to score a large split")
    save_raw: bool = option(False, "write a translation's raw maps as .npy too; those of --explain always are")
    epochs: tuple[str, ...] = option((), "exported weights to explain, for example 10,20,latest; none: --epoch")
    grid: bool = option(False, "pictures of some images by epoch, too; without --epochs, of all that were exported")
    grid_images: int = option(8, "at most this many images, evenly spaced, in a picture of --grid", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fuse and not self.layers:
            raise OptionError(f"--fuse {self.fuse}: makes one map of those of several layers; name these by --layers")


@dataclass(frozen=True)
class Evaluation(Group):
    """evaluation: what is measured, with what"""

    epochs: tuple[str, ...] = option((), "exported weights to evaluate, for example 100,150,latest; none: --epoch")
    metrics: tuple[str, ...] = option((), "measures, for example fid,kid,ssim; none: every one that can be computed")
    skip_metrics: tuple[str, ...] = option((), "measures to leave out")
    features: str = option(
        "auto",
        "network behind FID and its kin: inception; classifier, trained on the domain's own labelled images; "
        "auto: inception where its weights are at hand, else classifier",
        choices=("auto", "inception", "classifier"),
    )
    classifier: str | None = option(None, "run of a trained --model classifier for --features classifier")
    inception_weights: str | None = option(None, "file of Inception's weights; none: the one in torch hub's cache")
    lpips_weights: str | None = option(None, "file of AlexNet's weights for LPIPS; none: the one in torch hub's cache")
    pairs: str | None = option(None, "table of true pairs (columns A,B); none: <dataroot>/pairs_<phase>.csv if there")
    boxes: str | None = option(None, "table of targets (file,x0,y0,x1,y1); none: <dataroot>/boxes.csv if there")
    masks: str | None = option(None, "folder of target masks; none: masks_<phase> or masks/FOLDER of <dataroot>")
    segmenter: str | None = option(
        None, "MODULE:FUNCTION of your own, (1, C, H, W) in [0, 1] to target or not, or to class numbers, for mIoU"
    )
    judge_epochs: int = option(
        25, "of the independent classifiers, and of the one trained on translations; few judge fast and badly", low=1
    )
    judge_seed: int = option(
        0, "seed of the independent classifiers; the same for all runs that are compared; -1: the run's", low=-1
    )
    umap: bool = option(False, "draw UMAP beside t-SNE (needs umap-learn)")
    report_images: int = option(120, "images in the gallery of the report", low=0)


COMMON: tuple[type[Group], ...] = (Experiment, Data, Networks, Optim, Schedule, Log, Runtime)
