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
    """Settings of `vjepa show`."""

    videos: tuple[Text, ...] = ()
    """Videos and images: files, folders, lists or CSV files."""
    model: tuple[Text, ...] = ()
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder. Several are
    shown side by side on the same frames. untrained:MODEL is the same architecture with random weights."""
    out: Text = "runs/show"
    """Output folder."""
    what: Annotated[tuple[Literal["pca", "similarity", "attention", "map"], ...], AtLeastOne()] = ("pca", "similarity")
    """Visualizations. pca: features as colors (PNG, MP4, HTML). similarity: interactive page of the similarity to a selected
    patch. attention: attention maps of the attentive classifier of a `vjepa probe` or `vjepa finetune` run. map: 2-D map of
    all clips with their nearest neighbors (HTML, parquet)."""
    layer: Layer = -1
    """Encoder block whose output is shown (from 0; negative: from the end), followed by the encoder's norm."""
    clips: Count | None = 1
    """Consecutive clips per video; None: as many as cover the video."""
    start: Annotated[float, Range(0, 1e9)] | None = None
    """Start of the first clip, seconds; None: clips are centered in the video."""
    whole: bool = False
    """Show whole frames in their own aspect ratio instead of the center crop."""
    short_side: Side | None = None
    """Short side of the encoder input, px, a multiple of its patch size; None: as in pretraining. Larger inputs give finer
    maps."""
    foreground: bool = False
    """pca: mask the background by thresholding the first component."""
    interpolate: bool = False
    """pca: interpolate colors between tokens (noted in the captions)."""
    fit: Text | None = None
    """pca: reuse the components and colors of an earlier run (its pca-fit.safetensors); None: fit on these clips."""
    limit: Annotated[int, Range(1, 10_000)] = 24
    """Maximum number of files, evenly spaced over those given (the map uses all)."""
    rows: Literal["classes", "heads"] = "classes"
    """attention: one row per class, or per attention head."""
    classes: tuple[Text, ...] = ()
    """attention: classes to show; empty: the predicted class of each clip."""
    query: tuple[Text, ...] = ()
    """map: videos to search the nearest neighbors of."""
    neighbors: Annotated[int, Range(1, 1000)] = 10
    """map: number of nearest neighbors per clip."""
    layout: Literal["pca", "umap"] = "pca"
    """map: dimensionality reduction; umap needs umap-learn (the extra `map`)."""
    batch_size: Few = 16
    """map: batch size of the encoder, in clips."""
    seed: Seed = 0
    """Random seed of untrained models and UMAP."""
    overwrite: bool = False
    """Replace the files of an earlier run in the output folder."""


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Config):
    """Label propagation from frame to frame."""

    context: Few = 7
    """Number of previous frames to propagate from, in addition to the first frame."""
    radius: Count | None = 12
    """Radius of the spatial neighborhood, in tokens; None: unlimited."""
    top_k: Few = 5
    """Number of most similar tokens to propagate from."""
    temperature: Annotated[float, Range(0, 100, above=True)] = 0.1
    """Temperature of the softmax over similarities."""


@dataclass(frozen=True)
class TrackConfig(PropagationConfig, ComputeConfig):
    """Settings of `vjepa track`."""

    video: str = ""
    """Video file or folder of frames."""
    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder;
    untrained:MODEL is the same architecture with random weights."""
    mask: Text | None = None
    """Segmentation mask of the first frame: one palette index, gray value or color per object; 0 or black is background."""
    points: tuple[Text, ...] = ()
    """Points in the first frame, as x,y in pixels (instead of a mask)."""
    truth: Text | None = None
    """Folder of ground-truth masks, one per frame, to compute J and F."""
    davis: Text | None = None
    """Folder in the DAVIS layout (instead of a video): track and score all its videos."""
    split: Text = "val"
    """davis: name of the list in ImageSets."""
    resolution: Text = "480p"
    """davis: name of the folder in JPEGImages and Annotations."""
    out: Text = "runs/track"
    """Output folder."""
    frames: Literal["still", "clip"] = "still"
    """still: encode each frame on its own. clip: encode clips of consecutive frames, each frame repeated to fill a tubelet."""
    short_side: Side | None = None
    """Short side of the encoder input, px; None: as in pretraining. Larger inputs track more accurately."""
    layer: Layer = -1
    """Encoder block whose output is compared (from 0; negative: from the end), followed by the encoder's norm."""
    seed: Seed = 0
    """Random seed of untrained models."""
    overwrite: bool = False
    """Replace the files of an earlier run in the output folder."""
