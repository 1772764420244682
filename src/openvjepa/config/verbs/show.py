"""Settings of `vjepa show` and `vjepa track`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LabelConfig, RateConfig
from openvjepa.config.ranges import AtLeastOne, Config, Count, Few, Range, Seed, Text

Layer = Annotated[int, Range(-1024, 1023)]
Side = Annotated[int, Range(1, 16_384)]


@dataclass(frozen=True)
class ShowConfig(LabelConfig, RateConfig, ComputeConfig):
    """Everything `vjepa show` does."""

    videos: tuple[Text, ...] = ()
    """Videos and images: files, folders, lists or CSV files."""
    model: tuple[Text, ...] = ()
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder. Two: side by
    side on the same frames. untrained:MODEL is its architecture with random weights."""
    out: Text = "runs/show"
    """Folder to write."""
    what: Annotated[tuple[Literal["pca", "similarity", "attention", "map"], ...], AtLeastOne()] = ("pca", "similarity")
    """Pictures to write. pca: features as colors (PNG, MP4, HTML). similarity: a page in which a patch is chosen, and all frames
    are colored by similarity to it. attention: where the attentive probe of a run of `vjepa probe` or `vjepa finetune` looks.
    map: all clips on a plane, with their nearest neighbors (HTML, parquet)."""
    layer: Layer = -1
    """Block whose output is shown, after the encoder's norm; from 0, or negative from the end."""
    clips: Count | None = 1
    """Clips of each video, one after the other; None: as many as cover the video."""
    start: Annotated[float, Range(0, 1e9)] | None = None
    """Seconds at which the first clip starts; None: the clips lie in the middle of the video."""
    whole: bool = False
    """Show whole frames in their own aspect ratio; otherwise the center crop."""
    short_side: Side | None = None
    """Short side of what the encoder sees, px, a multiple of its patch; None: as in pretraining. More shows finer maps."""
    foreground: bool = False
    """pca: mask the background, by the first component."""
    interpolate: bool = False
    """pca: blend the colors of neighboring tokens; the pictures say so."""
    fit: Text | None = None
    """pca: a file pca-fit.safetensors of an earlier run, whose components and colors are used; None: fit on these clips."""
    limit: Annotated[int, Range(1, 10_000)] = 24
    """Most files that are shown frame by frame, evenly spread over those given; the map has all."""
    rows: Literal["classes", "heads"] = "classes"
    """attention: a row for each class, or for each head of the probe."""
    classes: tuple[Text, ...] = ()
    """attention: classes to draw; none: the most probable of each clip."""
    query: tuple[Text, ...] = ()
    """map: videos that are looked up among the others."""
    neighbors: Annotated[int, Range(1, 1000)] = 10
    """map: nearest neighbors of each clip."""
    layout: Literal["pca", "umap"] = "pca"
    """map: how places are found; umap needs the extra `map` (umap-learn)."""
    batch_size: Few = 16
    """map: clips in one pass of the encoder."""
    seed: Seed = 0
    """The random weights of untrained models, and UMAP, follow from it."""
    overwrite: bool = False
    """Replace pictures of an earlier run."""


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Config):
    """How labels are propagated from frame to frame."""

    context: Few = 7
    """Last frames that labels are taken from, beside the first."""
    radius: Count | None = 12
    """Farthest token that a label is taken from, in tokens along each side; None: anywhere."""
    top_k: Few = 5
    """Most similar tokens that a token takes its labels from."""
    temperature: Annotated[float, Range(0, 100, above=True)] = 0.1
    """Of the softmax over their similarities."""


@dataclass(frozen=True)
class TrackConfig(PropagationConfig, ComputeConfig):
    """Everything `vjepa track` does."""

    video: str = ""
    """Video, or folder of frames."""
    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder;
    untrained:MODEL is its architecture with random weights."""
    mask: Text | None = None
    """Picture of the objects in the first frame: a number (palette or gray) or a color for each, 0 or black elsewhere."""
    points: tuple[Text, ...] = ()
    """Points of the first frame to follow instead: x,y in pixels."""
    truth: Text | None = None
    """Folder with the true mask of every frame: J and F are computed."""
    davis: Text | None = None
    """In place of a video: a folder in the layout of DAVIS, whose videos are all tracked and scored."""
    split: Text = "val"
    """davis: list of videos below ImageSets."""
    resolution: Text = "480p"
    """davis: folder below JPEGImages and Annotations."""
    out: Text = "runs/track"
    """Folder to write."""
    frames: Literal["still", "clip"] = "still"
    """still: each frame is shown to the encoder alone. clip: beside the frames around it, each repeated to a tubelet."""
    short_side: Side | None = None
    """Short side of what the encoder sees, px; None: as in pretraining. More tracks finer."""
    layer: Layer = -1
    """Block whose output is compared, after the encoder's norm; from 0, or negative from the end."""
    seed: Seed = 0
    """The random weights of untrained models follow from it."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""
