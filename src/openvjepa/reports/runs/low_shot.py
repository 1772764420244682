"""Label efficiency as a section of a report."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from openvjepa.probing.search.low_shot import Share
from openvjepa.reports import charts
from openvjepa.reports import pages as report


def share_text(share: Share, kind: str) -> str:
    """Mean and spread, for people."""
    spread = share.spread(kind)
    return f"{share.mean(kind):.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def section(shares: Sequence[Share]) -> report.Section:
    """The accuracies as a table and a chart for each kind of probe."""
    kinds, draws = list(shares[-1].top1), max(len(next(iter(share.top1.values()))) for share in shares)
    x = [100 * share.fraction for share in shares]
    drawn: list[Markup] = []
    for kind in kinds:
        lines = {"mean": [share.mean(kind) for share in shares]}
        if draws > 1:
            lines["best draw"] = [max(share.top1[kind]) for share in shares]
            lines["worst draw"] = [min(share.top1[kind]) for share in shares]
        drawn.append(charts.line_chart(f"{kind}: test accuracy, %", x, lines, x_label="training videos, %"))
    rows = ((f"{100 * s.fraction:.4g} %", str(s.videos), *(share_text(s, kind) for kind in kinds)) for s in shares)
    note = report.paragraph(
        f"Probes trained on a share of the training videos, class by class; mean and standard deviation of {draws} random "
        "choices. The validation videos, which choose the settings, are the same throughout."
    )
    table = report.plain_table(("labels", "videos", *kinds), rows)
    return report.Section("Label efficiency", note + table + report.chart_row(drawn))
