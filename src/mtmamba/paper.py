"""What the paper prints: the rows of its tables, and the choices that make the same networks here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from mtmamba.rules import ConfigError

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "semseg": "mIoU",
        "depth": "RMSE",
        "human_parts": "mIoU",
        "sal": "maxF_published",
        "normals": "mErr",
        "edge": "odsF",
    }
)
"""Our name of the metric that the paper prints, by task. Only this one may stand beside the paper's number."""

TASKS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "nyud": ("semseg", "depth", "normals", "edge"),
        "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
    }
)
"""The tasks of each dataset, in the canonical order."""

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"data": "nyud", "encoder": "swin_large", "decoder": "mtmamba", "ablation": "none"}
)
"""The choices that a network's overrides change."""


class Network(NamedTuple):
    """Which network, on which data and tasks: what a row of the paper's tables says of a model."""

    data: str
    encoder: str
    decoder: str
    ablation: str
    tasks: tuple[str, ...]


def network_of(overrides: str) -> Network:
    """Return the network that a row's overrides mean.

    >>> network_of("decoder=swin2 tasks=[depth]")
    Network(data='nyud', encoder='swin_large', decoder='swin2', ablation='none', tasks=('depth',))
    """
    chosen = {**DEFAULTS, **dict(override.split("=") for override in overrides.split())}
    tasks = (chosen.pop("tasks").strip("[]"),) if "tasks" in chosen else tuple(TASKS[chosen["data"]])
    return Network(**chosen, tasks=tasks)


class Row(NamedTuple):
    """A row of a table: one network or several, and what the paper prints for them together."""

    name: str
    networks: Sequence[str] = ()
    """Overrides of each network over `DEFAULTS`; none for other people's methods."""
    parameters: str | None = None
    """In millions."""
    flops: str | None = None
    """In units of 10^9."""
    scores: Mapping[str, str] = MappingProxyType({})
    """Scores by task, in the units of `METRICS`, with the paper's digits."""
    delta_m: str | None = None
    """In percent, over the single-task row of Table 2."""
    encoder: str | None = None
    """The printed scores' encoder, where it is not that of the networks: between the two no difference is taken."""
    remarks: Sequence[str] = ()
    """What a reader must know to read the row."""


class PublishedTable(NamedTuple):
    """A table of the paper, or the part of it about one dataset."""

    number: str
    title: str
    data: str
    rows: Sequence[Row]


def _row(
    data: str,
    name: str,
    networks: Sequence[str],
    scores: str,
    delta_m: str | None = None,
    cost: tuple[str | None, str | None] = (None, None),
) -> Row:
    """Read a row's scores from one line, in the order of the dataset's tasks; ``-`` where our copy has none."""
    printed = zip(TASKS[data], scores.split(), strict=True)
    return Row(name, networks, *cost, {task: score for task, score in printed if score != "-"}, delta_m)


def _peer(
    data: str, name: str, decoder: str | None, encoder: str | None = None, scores: str = "", *remarks: str
) -> Row:
    """Return a row of Table 1: another method's printed scores, our network, or both."""
    networks = [] if decoder is None else [f"decoder={decoder} data={data}"]
    row = _row(data, name, networks, scores or " ".join("-" for _ in TASKS[data]))
    return row._replace(encoder=encoder, remarks=remarks)


_nyud, _pascal = partial(_row, "nyud"), partial(_row, "pascal_context")
_nyud_peer, _pascal_peer = partial(_peer, "nyud"), partial(_peer, "pascal_context")

SMALL, WINDOW7 = "HRNet-18-small ?", "Swin-L, window 7, ADE20K"
RECALLED = "an encoder with a question mark is recalled, not read in a source"
ENCODERS = "the ten points of mIoU between HRNet-18-small and HRNet-48 are the encoder's, not the decoder's"
COPIES = "ours has an encoder for every task; how it goes with Swin is our choice"
MODULATED = "ours is run once for every task; how Swin is modulated is our choice"
NECK = "ours has a neck, which brings Swin's maps to HRNet-48's widths"
VIT = "released for ViT: which of Swin's maps enter where is our reconstruction"
ADE20K = "the published encoder had seen ADE20K's labels, ours ImageNet's alone"
MIOU = "sal is {}scored by mIoU, under a heading that says maxF"


def _ours(peer: Callable[..., Row]) -> tuple[Row, ...]:
    """Return what is not in the paper's Table 1."""
    return (
        peer("PAP-style (reconstruction)", "pap"),
        peer("PSD-style (reconstruction)", "psd"),
        peer("NDDR-CNN", "nddr", None, "", COPIES),
        peer("MTAN", "mtan"),
        peer("ASTMT without its adversary", "astmt", None, "", MODULATED),
        peer("ASTMT's decoder alone", "astmt_decoder"),
        peer("Multi-task baseline", "concat_head"),
        peer("FCN, ATRC's baseline", "fcn"),
    )


MTMAMBA = _nyud("MTMamba", [""], "55.82 0.5066 18.63 78.70", "+2.38", ("307.99", "540.81"))

SINGLE_TASK = _nyud(
    "Single-task 2*Swin",
    [f"decoder=swin2 tasks=[{task}]" for task in TASKS["nyud"]],
    "54.32 0.5166 19.21 77.30",
    "0.00",
    ("888.77", "1074.79"),
)
"""The base of every Delta_m that the paper prints."""

TABLES: Sequence[PublishedTable] = (
    PublishedTable(
        "1, NYUDv2",
        "Comparison with the state of the art on NYUDv2",
        "nyud",
        (
            _nyud_peer("Cross-Stitch", "cross_stitch", SMALL, "36.34 0.6290 20.88 76.38", RECALLED, ENCODERS, COPIES),
            _nyud_peer("PAP", None, SMALL, "36.72 0.6178 20.82 76.42", RECALLED, ENCODERS),
            _nyud_peer("PSD", None, SMALL, "36.69 0.6246 20.87 76.42", RECALLED, ENCODERS),
            _nyud_peer("PAD-Net", "pad_net", SMALL, "36.61 0.6270 20.85 76.38", RECALLED, ENCODERS),
            _nyud_peer("MTI-Net", "mti_net", "HRNet-48 ?", "45.97 0.5365 20.27 77.86", RECALLED),
            _nyud_peer("ATRC", "atrc", "HRNet-48 ?", "46.33 0.5363 20.18 77.94", RECALLED, NECK),
            _nyud_peer("InvPT", "invpt", "ViT-L/16", "53.56 0.5183 19.04 78.10", VIT),
            _nyud_peer("MQTransformer", "mqtransformer", WINDOW7, "54.84 0.5325 19.67 78.20", ADE20K),
            MTMAMBA._replace(delta_m=None, parameters=None, flops=None),
            _nyud_peer("MTMamba++ (the follow-up)", "mtmamba_plus"),
            *_ours(_nyud_peer),
        ),
    ),
    PublishedTable(
        "1, PASCAL-Context",
        "Comparison with the state of the art on PASCAL-Context",
        "pascal_context",
        (
            _pascal_peer("Cross-Stitch", "cross_stitch", None, "", COPIES),
            _pascal_peer("ASTMT", None, "ResNet-101", "68.00 61.10 65.70 14.70 72.40", MIOU.format("")),
            _pascal_peer(
                "PAD-Net", "pad_net", SMALL, "53.60 59.60 65.80 15.30 72.50", MIOU.format("most likely "), RECALLED
            ),
            _pascal_peer("MTI-Net", "mti_net", SMALL, "61.70 60.18 84.78 14.23 70.80", RECALLED),
            _pascal_peer("ATRC", "atrc", SMALL, "62.69 59.42 84.70 14.20 70.96", RECALLED, NECK),
            _pascal_peer("ATRC-ASPP", None, "ResNet-50, dilated ?", "63.60 60.23 83.91 14.30 70.86", RECALLED),
            _pascal_peer("ATRC-BMTAS", None, "ResNet-50, branched ?", "67.67 62.93 82.29 14.24 72.42", RECALLED),
            _pascal_peer("InvPT", "invpt", "ViT-L/16", "79.03 67.61 84.81 14.15 73.00", VIT),
            _pascal_peer(
                "MQTransformer", "mqtransformer", WINDOW7 + " ?", "78.93 67.41 83.58 14.21 73.90", RECALLED, ADE20K
            ),
            _pascal("MTMamba", ["data=pascal_context"], "81.11 72.62 84.14 14.14 78.80"),
            _pascal(
                "MTMamba++ (the follow-up)",
                ["decoder=mtmamba_plus data=pascal_context"],
                "81.94 72.87 85.56 14.29 78.60",
            ),
            *_ours(_pascal_peer),
        ),
    ),
    PublishedTable(
        "2",
        "Effectiveness of the STM and CTM blocks on NYUDv2",
        "nyud",
        (
            SINGLE_TASK,
            _nyud("Multi-task 2*Swin", ["decoder=swin2"], "53.72 0.5239 19.97 76.50", "-1.87", ("303.18", "466.35")),
            _nyud("1*STM", ["decoder=stm1"], "54.61 0.5059 19.00 77.40", "+0.95", ("252.51", "354.13")),
            _nyud("2*STM", ["decoder=stm2"], "54.66 0.4984 18.81 78.20", "+1.84", ("276.48", "435.47")),
            _nyud("3*STM", ["decoder=stm3"], "54.75 0.5054 18.81 78.20", "+1.55", ("300.45", "516.82")),
            MTMAMBA._replace(name="2*STM+1*CTM"),
        ),
    ),
    PublishedTable(
        "3",
        "Effectiveness of the MFE module on NYUDv2",
        "nyud",
        (
            _nyud("MFE→W-MSA", ["ablation=mfe_wmsa"], "- 0.5109 19.95 76.60", None, ("451.81", "884.61")),
            MTMAMBA,
        ),
    ),
    PublishedTable(
        "4",
        "Effectiveness of the linear gate on NYUDv2",
        "nyud",
        (
            _nyud("Linear→W-MSA", ["ablation=gate_wmsa"], "- 0.4990 - -", None, ("345.33", "659.29")),
            MTMAMBA,
        ),
    ),
    PublishedTable(
        "5",
        "Effectiveness of cross-task interaction in the CTM block on NYUDv2",
        "nyud",
        (
            _nyud("g=0", ["ablation=g0"], "55.37 0.5087 18.76 78.30", "+1.77"),
            _nyud("g=1", ["ablation=g1"], "54.50 0.4981 18.83 78.20", "+1.76"),
            MTMAMBA._replace(name="adaptive g", parameters=None, flops=None),
        ),
    ),
    PublishedTable(
        "6",
        "MTMamba with Swin encoders of four sizes on NYUDv2",
        "nyud",
        (
            _nyud("Swin-Tiny", ["encoder=swin_tiny"], "49.25 0.5299 19.74 76.90"),
            _nyud("Swin-Small", ["encoder=swin_small"], "51.93 0.5246 19.45 77.80"),
            _nyud("Swin-Base", ["encoder=swin_base"], "53.62 0.5126 19.28 77.70"),
            MTMAMBA._replace(name="Swin-Large", delta_m=None, parameters=None, flops=None),
        ),
    ),
)
"""Lin et al., MTMamba, ECCV 2024. The text at hand of Tables 3 and 4 lacks a part of their first rows.

The networks of Table 1 are what ``experiment=table1_nyud`` and ``table1_pascal`` run, those of the others what
``experiment=table2`` to ``table6`` do; ``tests/test_paper.py`` holds them together.
"""

SIZED = MappingProxyType({t.number: t.rows for t in TABLES if any(row.parameters for row in t.rows)})
"""The rows of Tables 2 to 4, which print sizes and costs."""


def require_table(number: str, known: Collection[str]) -> None:
    """Raise ConfigError where a table is none of those that a script can show."""
    if number not in known:
        raise ConfigError(f"Expected table to be one of {'; '.join(known)}, got {number}: choose one of those.")
